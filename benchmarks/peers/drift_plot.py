"""Draw the result of benchmarks/drift.py: python drift_plot.py RESULT.json OUT.svg"""

import json
import sys

from matplotlib.figure import Figure


def main(result, out):
    with open(result) as file:
        found = json.load(file)
    figure = Figure(figsize=(15, 4.5))
    left, middle, right = figure.subplots(1, 3)
    for name, row in found["detectors"].items():
        style = {"linewidth": 3} if name == "embedship" else {"linestyle": "--", "marker": "."}
        left.plot(
            found["sessions"], [row["false_alarms"][str(size)] for size in found["sessions"]], label=name, **style
        )
        middle.plot(found["shares"], [row["power"][str(share)] for share in found["shares"]], label=name, **style)
    left.set(title="False alarms without drift", xlabel="related queries per session", ylabel="share of checks")
    middle.set(title=f"Power at {found['level']:.0%} false alarms", xlabel="share of a new topic", ylim=(-0.02, 1.02))
    right.hist(found["recall"]["delays"], bins=30)
    right.axvline(400, color="black", linestyle=":")
    right.set(title="A recall fall of 0.03", xlabel="queries until the alarm")
    left.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
