import pytest

from detrex_lite.errors import NonFiniteError, closest, did_you_mean, few


def test_a_close_name_is_suggested():
    assert did_you_mean("nom_classes", ["num_classes", "num_queries"]) == "; did you mean 'num_classes'?"


def test_a_name_with_the_same_initials_is_suggested():
    assert did_you_mean("learning_rate", ["betas", "eps", "lr"]) == "; did you mean 'lr'?"
    assert did_you_mean("wd", ["weight_decay", "lr"]) == "; did you mean 'weight_decay'?"


def test_without_a_close_name_all_choices_are_listed_once_and_sorted():
    assert did_you_mean("zzz", ["res5", "res2", "res2"]) == "; choices: res2, res5"


def test_without_choices_the_suggestion_is_empty():
    assert did_you_mean("zzz", []) == ""


def test_otherwise_replaces_the_list_of_choices():
    assert did_you_mean("zzz", ["res5"], otherwise="; see there") == "; see there"
    assert did_you_mean("res4", ["res5"], otherwise="; see there") == "; did you mean 'res5'?"


def test_closest_returns_a_name_or_none():
    assert closest("nom_classes", ["num_queries", "num_classes"]) == "num_classes"
    assert closest("zzz", ["num_queries"]) is None


@pytest.mark.parametrize(
    ("name", "choice"),
    [("loss_vfl", "loss_class"), ("train.patience", "train.device"), ("num_queries", "num_classes")],
)
def test_names_that_only_share_a_word_are_not_close(name, choice):
    assert closest(name, [choice]) is None


@pytest.mark.parametrize(
    ("name", "choice"), [("epochs", "max_epochs"), ("train.max_epoch", "train.max_epochs"), ("girds", "grid")]
)
def test_names_with_an_extra_word_or_a_typo_are_close(name, choice):
    assert closest(name, [choice]) == choice


def test_few_shortens_long_lists():
    assert few(["a", "b"]) == few(["a", "b"], limit=2) == "a, b"
    assert few(range(9), limit=2) == "0, 1, ... (9 in all)"


def test_long_lists_of_choices_are_omitted():
    choices = [f"res{number}" for number in range(21)]
    assert did_you_mean("zzz", choices) == ""
    assert did_you_mean("res99", choices) == "; did you mean 'res9'?"
    assert did_you_mean("zzz", choices[:20]).startswith("; choices: res0, res1, ")


def test_names_that_are_not_strings_are_compared_as_text():
    assert did_you_mean(51, [50, 101]) == "; choices: 101, 50"
    assert did_you_mean("1010", iter([50, 101])) == "; did you mean '101'?"


@pytest.mark.parametrize("kind", [ValueError, FloatingPointError])
def test_a_non_finite_error_is_a_value_error_and_a_floating_point_error(kind):
    with pytest.raises(kind, match="loss_bbox"):
        raise NonFiniteError("loss_bbox is NaN")
