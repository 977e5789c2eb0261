"""What can be tested without measuring: statistics, and the forms that results are shown in."""

import contextlib
import copy
import io
import json
import os
import signal
import subprocess
import sys
import time
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path

from . import cli, processes, report, rows, smallfiles, svg
from .stats import quantile, ratio, summarize


def document():
    """Two rounds of three subjects, one of which failed once."""
    samples = {
        "write-1m": {"kmsfs": [900.0, 1100.0], "gocryptfs": [300.0, 500.0], "plain": [4000.0, None]},
        "tar": {"kmsfs": [2.0, 2.0], "gocryptfs": [1.0, 1.0], "plain": [0.5, 0.5]},
        "cpu-read-all": {"kmsfs": [0.5, 0.5]},
    }
    return {
        "schema": 1,
        "date": "2000-01-01 00:00 UTC",
        "note": "Other builds ran.",
        "machine": {
            "cpu": "A & B <8 GHz>",
            "cores": 2,
            "memory_gib": 8.0,
            "kernel": "6.12",
            "system": "Debian",
            "virtual": True,
            "backings": {"tmpfs": {"type": "tmpfs", "source": "none", "options": "rw"}},
            "load_before": 0.1,
            "load_after": 1.0,
            "busy_before": 0.3,
        },
        "settings": {"rounds": 2, "stream": 1 << 29, "random_ops": 10, "files": 10, "tree_files": 10},
        "subjects": [
            {"name": name, "title": name, "version": "1", "options": "defaults"}
            for name in ("kmsfs", "plain", "gocryptfs")
        ],
        "skipped": [{"name": "cryfs", "why": "it is not installed"}],
        "failures": [{"backing": "tmpfs", "subject": "plain", "round": 2, "rows": "streams-1", "why": "no room"}],
        "results": report.with_summaries({"tmpfs": samples}),
    }


class Statistics(unittest.TestCase):
    """Medians, quartiles, ratios."""

    def test_quantiles_lie_between_neighbours(self):
        self.assertEqual(quantile([4.0], 0.25), 4.0)
        self.assertEqual(quantile([3.0, 1.0, 2.0], 0.5), 2.0)
        self.assertEqual(quantile([1.0, 2.0, 3.0, 4.0], 0.5), 2.5)
        self.assertEqual(quantile([1.0, 2.0, 3.0, 4.0, 5.0], 0.25), 2.0)
        self.assertEqual(quantile([1.0, 2.0, 3.0, 4.0, 5.0], 1), 5.0)

    def test_a_round_that_failed_does_not_count(self):
        self.assertIsNone(summarize([None, None]))
        self.assertIsNone(summarize([]))
        found = summarize([None, 10.0, 20.0])
        self.assertEqual((found.median, found.count), (15.0, 2))
        self.assertAlmostEqual(found.spread, 2.5 / 15)

    def test_ratios_are_of_the_same_round_and_above_one_where_ours_is_better(self):
        # The second round was slow for both.
        self.assertEqual(ratio([8.0, 4.0, None], [4.0, 2.0, 1.0], True).median, 2.0)
        self.assertEqual(ratio([8.0], [4.0], False).median, 0.5)
        self.assertIsNone(ratio([8.0, None], [None, 4.0], True))


class Rows(unittest.TestCase):
    """The table of rows."""

    def test_names_are_unique_and_can_be_chosen(self):
        names = [row.name for row in rows.ROWS]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual([row.name for row in rows.chosen("tar,small-st*")], ["small-stat", "small-stat-2j", "tar"])
        self.assertEqual(rows.chosen("frob"), [])


class Output(unittest.TestCase):
    """Text, Markdown, JSON and the chart."""

    def test_numbers_have_three_digits(self):
        small = [(0.1234, "0.123"), (12.34, "12.3"), (99.96, "100"), (1234.5, "1234"), (9999, "9999")]
        for value, shown in [*small, (12_345, "12.3k")]:
            self.assertEqual(report.number(value), shown)
        self.assertEqual(report.number(497_000), "497k")
        self.assertEqual([report.factor(value) for value in (12.345, 0.123, 0.00123)], ["12.35", "0.12", "0.0012"])
        self.assertEqual(report.number(1_500_000), "1.5M")

    def test_the_text_has_medians_spread_ratios_and_what_is_missing(self):
        shown = "\n".join(report.text(document()))
        self.assertRegex(shown, r"write-1m +MB/s +1000 ±5% +4000 ±0% +400 ±12%")
        self.assertRegex(shown, r"\nwrite-1m +1.00 +0.23 +2.60\n")
        self.assertIn("skipped: cryfs: it is not installed", shown)
        self.assertIn("failed: plain on tmpfs, round 2, streams-1: no room", shown)
        self.assertIn("0 of 2 reached", shown)
        self.assertIn("tar: 0.50 times gocryptfs, wanted 1", shown)
        self.assertIn("write-1m: 2.60 times gocryptfs, wanted 3", shown)

    def test_the_whole_machine_counts_only_if_it_was_quiet(self):
        busy = document()
        self.assertNotIn("cpu-read-all", "\n".join(report.text(busy)))
        quiet = copy.deepcopy(busy)
        quiet["machine"]["busy_before"] = 0.01
        self.assertIn("cpu-read-all", "\n".join(report.text(quiet)))

    def test_json_shows_the_same_again(self):
        made = document()
        again = json.loads(json.dumps(made))
        self.assertEqual(list(report.text(again)), list(report.text(made)))
        found = again["results"]["tmpfs"]["write-1m"]["plain"]
        self.assertEqual(found, {"samples": [4000.0, None], "median": 4000.0, "q1": 4000.0, "q3": 4000.0})

    def test_results_go_between_the_marks_and_twice_is_once(self):
        page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
        once = report.put_into(page, document())
        self.assertTrue(once.startswith("before\n") and once.endswith("\nafter\n"))
        self.assertNotIn("old", once)
        self.assertIn("Measured on 2000-01-01 00:00 UTC. Other builds ran.\n", once)
        self.assertIn("| tar x of a source tree | 1.00 | 0.25 | 0.50 | 1 |", once)
        self.assertEqual(report.put_into(once, document()), once)
        with self.assertRaisesRegex(ValueError, "lacks the lines"):
            report.put_into("a page", document())

    def test_the_documentation_has_the_marks(self):
        page = cli.PAGE.read_text(encoding="utf-8")
        self.assertIn("| tar x of a source tree |", report.put_into(page, document()))

    def test_the_chart_is_well_formed_and_has_a_bar_for_each_median(self):
        picture = xml.fromstring(svg.chart(document(), "tmpfs"))
        space = "{http://www.w3.org/2000/svg}"
        bars = [rect for rect in picture.iter(f"{space}rect") if rect.find(f"{space}title") is not None]
        self.assertEqual(len(bars), 6)
        width = float(picture.get("width"))
        for bar in bars:
            self.assertLessEqual(float(bar.get("x")) + float(bar.get("width")), width)
        # In proportion, and cut off what is longer than the longest of a mount: 1000, 4000, 400.
        widths = [float(bar.get("width")) for bar in bars[:3]]
        self.assertAlmostEqual(widths[0] / widths[2], 2.5, places=1)
        self.assertLess(widths[1] / widths[0], 1.1)


class Programs(unittest.TestCase):
    """Running programs."""

    def test_what_fails_is_named(self):
        with self.assertRaisesRegex(processes.Failed, "sh ended with 3: why"):
            processes.run(["sh", "-c", "echo why >&2; exit 3"], timeout=20)

    def test_a_program_that_takes_too_long_ends_with_all_that_it_started(self):
        with self.assertRaisesRegex(processes.Failed, "longer"):
            processes.run(["sh", "-c", "sleep 54321 & sleep 54321"], timeout=0.5)
        left = subprocess.run(["pgrep", "-f", "^sleep 54321$"], stdout=subprocess.PIPE, check=False)
        self.assertEqual(left.stdout, b"")

    def test_ends_are_tidy_also_when_interrupted_twice(self):
        done, handler = [], signal.getsignal(signal.SIGINT)
        with contextlib.suppress(KeyboardInterrupt):
            with cli.cleaning_up() as stack:
                stack.callback(done.append, "last")
                stack.callback(os.kill, os.getpid(), signal.SIGINT)
                raise KeyboardInterrupt
        self.assertEqual(done, ["last"])
        self.assertIs(signal.getsignal(signal.SIGINT), handler)

    def test_cpu_time_grows_with_work(self):
        before = processes.cpu_seconds(os.getpid()), processes.machine_cpu_seconds()
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        self.assertGreaterEqual(processes.cpu_seconds(os.getpid()), before[0] + 0.08)
        self.assertGreaterEqual(processes.machine_cpu_seconds(), before[1] + 0.08)

    def test_small_files_are_made_and_removed_by_all_jobs(self):
        with cli.tempfile.TemporaryDirectory() as directory:
            for action in ("create", "stat", "read"):
                self.assertGreater(smallfiles.main(action, directory, 10, 2), 0)
                self.assertEqual(len(list(Path(directory).glob("*/*"))), 10)
            self.assertGreater(smallfiles.main("unlink", directory, 10, 2), 0)
            self.assertEqual(os.listdir(directory), [])
            with contextlib.redirect_stderr(io.StringIO()):
                sys.stderr.flush()
                self.assertIsNone(smallfiles.main("stat", directory, 2, 1))

    def test_help_names_every_row(self):
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), self.assertRaises(SystemExit):
            cli.arguments(["--help"])
        for row in rows.ROWS:
            self.assertIn(f"  {row.name} ", shown.getvalue())


if __name__ == "__main__":
    unittest.main()
