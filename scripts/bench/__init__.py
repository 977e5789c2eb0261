"""The parts of scripts/bench-peers: kmsfs and other encrypting filesystems, measured side by side.

| module      | what it does                                                    |
|-------------|-----------------------------------------------------------------|
| `cli`       | the program: options, what to run, where results go             |
| `rows`      | what is measured: names, units, goals                           |
| `subjects`  | what is measured on: how each filesystem is made and mounted    |
| `workloads` | how it is measured: one function for each group of rows         |
| `smallfiles`| the loops over small files, in processes of their own           |
| `processes` | running programs so that none is left; CPU time and memory      |
| `machine`   | what the machine is                                             |
| `stats`     | medians, quartiles, ratios                                      |
| `report`    | tables, JSON, the section of docs/PERFORMANCE.md                |
| `svg`       | the chart                                                       |

Python's standard library is all it needs.
"""
