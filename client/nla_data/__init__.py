"""Files of activation vectors, explained and scored by a running nla-serve: the command `nla`, and one call.

    from nla_data.api import Job, Verbalize, run_job

    run_job(Job(Verbalize(n=4, best=True), ["activations/*.parquet"], "explained.parquet", ["http://host:8000"]))

Needs `pip install 'nla-serve[data]'`; the commands `nla info` and `nla try` do not.
"""
