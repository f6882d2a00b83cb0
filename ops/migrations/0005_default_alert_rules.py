"""The rules that ship: data like any other, to be changed or switched off."""

from django.db import migrations

HOUR = 3600

RULES = (
    dict(
        name="slow-queries", measure="latency_p95", comparison="above", threshold=1000, clear_threshold=800,
        window_s=300, for_s=300, severity="warning",
        description="One query in twenty takes over a second. Run manage.py doctor; docs/runbooks/high-latency.md.",
    ),
    dict(
        name="very-slow-queries", measure="latency_p95", comparison="above", threshold=5000, clear_threshold=4000,
        window_s=300, for_s=120, severity="critical",
        description="One query in twenty takes over five seconds. Run manage.py doctor; docs/runbooks/high-latency.md.",
    ),
    dict(
        name="query-errors", measure="error_rate", comparison="above", threshold=0.05, clear_threshold=0.02,
        window_s=300, for_s=120, severity="critical",
        description="One query in twenty fails. Run manage.py doctor, and see the log for the request ids.",
    ),
    dict(
        name="few-cache-hits", measure="cache_hit_rate", comparison="below", threshold=0.02, clear_threshold=0.05,
        window_s=HOUR, for_s=900, severity="info", enabled=False,
        description="Hardly a query is answered from a cache. Off until you know your usual share.",
    ),
    dict(
        name="queue-waits", measure="queue_age", comparison="above", threshold=600, clear_threshold=300,
        window_s=60, for_s=120, severity="warning",
        description="A task has waited for ten minutes: too few workers, or a stuck one. See var/log/worker.log.",
    ),
    dict(
        name="indexing-fails", measure="index_failures", comparison="above", threshold=20, clear_threshold=None,
        window_s=HOUR, for_s=0, severity="warning",
        description="Documents could not be indexed. /documents/ tells the reason of each.",
    ),
    dict(
        name="disk-filling", measure="disk_used", comparison="above", threshold=0.85, clear_threshold=0.82,
        window_s=60, for_s=300, severity="warning",
        description="The data folder's disk is filling. docs/runbooks/database-full.md.",
    ),
    dict(
        name="disk-full", measure="disk_used", comparison="above", threshold=0.95, clear_threshold=0.93,
        window_s=60, for_s=60, severity="critical",
        description="The data folder's disk is nearly full: soon nothing can be stored. docs/runbooks/database-full.md.",
    ),
    dict(
        name="models-failed", measure="models_failed", comparison="above", threshold=0, clear_threshold=None,
        window_s=60, for_s=0, severity="critical", enabled=False,
        description="A live model can't be loaded. Each one opens an alert of its own at once, so this is off.",
    ),
)


def add_rules(apps, schema_editor):
    rule = apps.get_model("ops", "AlertRule")
    for values in RULES:
        rule.objects.get_or_create(name=values["name"], defaults=values)


class Migration(migrations.Migration):
    dependencies = [("ops", "0004_alert_rules")]

    operations = [migrations.RunPython(add_rules, migrations.RunPython.noop)]
