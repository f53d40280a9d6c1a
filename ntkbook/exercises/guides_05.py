"""What chapter 05 asks of its panels: a question before they move, and three missions."""

from ..panel import Mission, Panel, Predict

# ---------------------------------------------------------------- the question


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "mode_filter" moves."""
    return Predict(
        "The learning rate is set 2.5 % above the limit of stability, without momentum. What goes wrong, and how?",
        {
            "Everything blows up together.": (
                "Each mode is multiplied by its own 1 − ηλ. The panel below shows step 14: look at the middle picture."
            ),
            "Only the mode of the largest eigenvalue grows, changing sign at each step; the others go on learning.": (
                "Its factor is 1 − 2.05 = −1.05. The panel below shows step 14; go one stop on to see the sign change."
            ),
            "The slowest modes fail, because they need the most steps.": (
                "Slow modes are the most stable ones: their ηλ is small. The panel below shows step 14."
            ),
        },
        answer="Only the mode of the largest eigenvalue grows, changing sign at each step; the others go on learning.",
        panel=panel,
        look={"step": 14, "rate": 2.05, "momentum": 0, "noise": 0.5},
    )


# ---------------------------------------------------------------- the missions


def mission_stop(panel: Panel) -> Mission:
    """Early stopping on the panel "mode_filter"."""
    return Mission(
        panel,
        "With noise 0.5 and no momentum: stop at a test error below 0.33. (At the end it is 0.40.)",
        lambda data, state: (
            abs(state["noise"] - 0.5) < 1e-6 and state["momentum"] == 0 and float(data["error_test"]) < 0.33
        ),
        hint="At the best time t = η k the filter stands between the target's modes and the fine ones. Try t near 6.",
        hint_after=8,
    )


def mission_heavy(panel: Panel) -> Mission:
    """All modes within 100 steps, by momentum, on the panel "mode_filter"."""
    return Mission(
        panel,
        "With noise 0.5: bring the training error below 0.05 within 100 steps.",
        lambda data, state: (
            abs(state["noise"] - 0.5) < 1e-6 and state["step"] <= 100 and float(data["error_train"]) < 0.05
        ),
        hint="Without momentum the slowest mode needs more than 100 steps at any stable rate. With momentum β the rate "
        "may go up to η λ_max = 2 (1 + β).",
        hint_after=8,
    )


def mission_units(panel: Panel) -> Mission:
    """The time of one step under the mean loss, on the panel "units_of_time"."""
    return Mission(
        panel,
        "With the mean loss over 12 examples and the learning rate 0.5: put the dots on the curve.",
        lambda data, state: (
            state["mean"] == 1
            and state["n"] == 12
            and abs(state["lr"] - 0.5) < 1e-6
            and abs(float(data["ratio"]) - 1) < 0.03
        ),
        hint="The loss has the factor 1/n in front of 1/2 the sum of squares, so one step is the time lr/n.",
        hint_after=8,
    )
