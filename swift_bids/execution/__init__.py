"""Runs the workflows of the runs: on this machine or a cluster, resumable and interruptible.

Call order of the modules: `embed_runs` (which runs; asks `resume` which are done, and reserves a
`work_folder`) -> `plan` (on which device and with which plugin; calls `plugins` and `preflight`) ->
`workflows` (runs them) -> `multiprocess` or `slurm` (nipype's plugins). Worker processes come from
`workers`, which loads `worker_server`. `progress` follows the nodes, `crashes` reads what failed,
and `dry_run` replaces all of this for `--dry-run`.
"""
