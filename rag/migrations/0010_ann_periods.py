from django.db import migrations, models


def begin_with_what_is_live(apps, schema_editor):
    """What is live now has a period; what was live before is in the audit trail alone."""
    period = apps.get_model("rag", "AnnPeriod")
    config = apps.get_model("rag", "AnnConfig")
    for row in config.objects.filter(state="live", activated_at__isnull=False).select_related("collection", "space"):
        period.objects.create(
            number=row.pk,
            collection=row.collection.slug,
            what=f"#{row.pk} {row.strategy} of {row.collection.slug}",
            facts={"space": row.space.slug, "strategy": row.strategy, "recall_at_10": row.recall_at_10},
            started_at=row.activated_at,
            by=row.by,
            reason=row.reason,
        )


class Migration(migrations.Migration):

    dependencies = [
        ('rag', '0009_feedback'),
    ]

    operations = [
        migrations.CreateModel(
            name='AnnPeriod',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.BigIntegerField(help_text='Of the configuration; no key, because the row may be gone.')),
                ('collection', models.CharField(help_text='Slug.', max_length=64)),
                ('what', models.CharField(help_text='The configuration in words.', max_length=300)),
                ('facts', models.JSONField(default=dict)),
                ('started_at', models.DateTimeField()),
                ('ended_at', models.DateTimeField(null=True)),
                ('by', models.CharField(max_length=200)),
                ('reason', models.TextField(blank=True)),
            ],
            options={
                'ordering': ('-started_at', '-id'),
                'indexes': [models.Index(fields=['started_at'], name='rag_ann_period_started')],
            },
        ),
        migrations.RunPython(begin_with_what_is_live, migrations.RunPython.noop),
    ]
