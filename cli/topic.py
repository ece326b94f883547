"""`penstock topic`: create, list, describe, alter and delete topics of any Kafka-speaking cluster.

Owns what is asked and shown. Where a call goes and how it is retried is `penstock.client.admin`'s.
"""

from collections.abc import Iterable

import click

from penstock.cli.asking import (
    bootstrap_option,
    counted,
    end,
    json_option,
    raise_error,
    with_admin,
)
from penstock.cli.deletion import ask_before_deletion, tell_of_deletion
from penstock.cli.failure import CalledWrongly
from penstock.cli.output import Column, print_json, print_table, topic_id_text
from penstock.client.admin import Admin
from penstock.client.admin_values import (
    ConfigChange,
    ConfigOperation,
    ConfigResource,
    CreatedTopic,
    NewTopic,
)
from penstock.client.errors import BrokerError, TopicExists, UnknownTopic
from penstock.runtime.environment import Environment

config_option = click.option(
    "--config", "configs", metavar="KEY=VALUE", multiple=True, help="Set a topic config; may be repeated."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Let the broker check it, but do nothing.")


@click.group("topic")
def command() -> None:
    """Create, list, describe, alter and delete topics."""


@command.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--partitions", "partition_count", type=click.IntRange(min=1), help="[default: the broker's]")
@click.option("--replication-factor", type=click.IntRange(1, 32767), help="[default: the broker's]")
@config_option
@click.option("--if-not-exists", is_flag=True, help="Not an error where the topic is there already.")
@dry_run_option
@bootstrap_option
@json_option
@click.pass_obj
def create(
    environment: Environment | None,
    names: tuple[str, ...],
    partition_count: int | None,
    replication_factor: int | None,
    configs: tuple[str, ...],
    if_not_exists: bool,
    dry_run: bool,
    bootstrap: str,
    as_json: bool,
) -> None:
    """Create topics."""
    topics = [
        NewTopic(
            name=name,
            partition_count=partition_count,
            replication_factor=replication_factor,
            configs=_assignments(configs),
        )
        for name in names
    ]

    async def act(admin: Admin) -> dict[str, CreatedTopic | BrokerError]:
        return await admin.create_topics(topics, validate_only=dry_run)

    outcomes = with_admin(bootstrap, environment, act)
    for name, outcome in outcomes.items():
        if isinstance(outcome, CreatedTopic):
            _tell_created(outcome, dry_run, as_json)
        elif if_not_exists and isinstance(outcome, TopicExists) and not as_json:
            click.echo(f"{name} is there already")
    end(
        outcome
        for outcome in outcomes.values()
        if isinstance(outcome, BrokerError) and not (if_not_exists and isinstance(outcome, TopicExists))
    )


def _tell_created(topic: CreatedTopic, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "topic": topic.name,
                "id": topic_id_text(topic.topic_id),
                "partitions": topic.partition_count,
                "replication_factor": topic.replication_factor,
                "dry_run": dry_run,
            }
        )
        return
    count = "" if topic.partition_count is None else counted(topic.partition_count, "partition")
    click.echo(f"{'could create' if dry_run else 'created'} {topic.name}{f': {count}' if count else ''}")


@command.command("list")
@click.option("--internal", is_flag=True, help="Internal topics too.")
@bootstrap_option
@json_option
@click.pass_obj
def list_(environment: Environment | None, internal: bool, bootstrap: str, as_json: bool) -> None:
    """List the topics."""
    found = with_admin(bootstrap, environment, lambda admin: admin.list_topics())
    topics = [topic for topic in found if internal or not topic.is_internal]
    if as_json:
        for topic in topics:
            print_json(
                {
                    "topic": topic.name,
                    "id": topic_id_text(topic.topic_id),
                    "partitions": len(topic.partitions),
                    "replication_factor": topic.replication_factor,
                    "internal": topic.is_internal,
                }
            )
        return
    if not topics:
        click.echo("no topics", err=True)
        return
    columns = [
        Column("TOPIC"),
        Column("PARTITIONS", is_number=True),
        Column("REPLICAS", is_number=True),
        Column("ID"),
    ]
    print_table(
        columns,
        [
            (topic.name, len(topic.partitions), topic.replication_factor, topic_id_text(topic.topic_id))
            for topic in topics
        ],
    )


@command.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--all-configs", is_flag=True, help="Configs that have their default, too.")
@click.option(
    "--under-replicated-partitions",
    is_flag=True,
    help="Only partitions of which not all replicas are in sync, of all topics if none is named.",
)
@click.option("--unavailable-partitions", is_flag=True, help="Only partitions without a leader.")
@click.option(
    "--under-min-isr-partitions", is_flag=True, help="Only partitions with less than min.insync.replicas."
)
@click.option("--at-min-isr-partitions", is_flag=True, help="Only partitions with just min.insync.replicas.")
@bootstrap_option
@json_option
@click.pass_obj
def describe(
    environment: Environment | None,
    /,
    names: tuple[str, ...],
    all_configs: bool,
    bootstrap: str,
    as_json: bool,
    **filters: bool,
) -> None:
    """Show partitions, offsets and configs of topics, or the partitions that lack something."""
    from penstock.cli import topic_description, topic_health

    lacks = [lack for lack in topic_health.Lack if filters[lack.value.replace("-", "_")]]
    if lacks:
        picked, errors = with_admin(
            bootstrap, environment, lambda admin: topic_health.pick(admin, names, lacks)
        )
        topic_health.show(picked, as_json=as_json)
        end(errors)
        return
    if not names:
        raise CalledWrongly("name a topic, or ask for partitions that lack something")
    found = with_admin(bootstrap, environment, lambda admin: topic_description.ask(admin, names))
    topic_description.show(found.topics, all_configs=all_configs, as_json=as_json)
    end(found.errors)


@command.command()
@click.argument("name")
@click.option(
    "--partitions", "partition_count", type=click.IntRange(min=1), help="Grow to N partitions in all."
)
@config_option
@click.option(
    "--delete-config", "deleted", metavar="KEY", multiple=True, help="Take a config back to its default."
)
@dry_run_option
@bootstrap_option
@json_option
@click.pass_obj
def alter(
    environment: Environment | None,
    name: str,
    partition_count: int | None,
    configs: tuple[str, ...],
    deleted: tuple[str, ...],
    dry_run: bool,
    bootstrap: str,
    as_json: bool,
) -> None:
    """Change configs and the partition count of a topic."""
    changes = [ConfigChange(key, value) for key, value in _assignments(configs).items()]
    changes += [ConfigChange(key, None, ConfigOperation.DELETE) for key in deleted]
    if len({change.name for change in changes}) < len(changes):
        raise CalledWrongly("a config is both set and deleted, or deleted twice")
    if not changes and partition_count is None:
        raise CalledWrongly("nothing to alter: give --config, --delete-config or --partitions")

    async def act(admin: Admin) -> None:
        if changes:
            resource = ConfigResource.topic(name)
            outcomes = await admin.alter_configs({resource: changes}, validate_only=dry_run)
            raise_error(outcomes[resource])
            _tell_altered_configs(name, changes, dry_run, as_json)
        if partition_count is not None:
            grown = await admin.create_partitions({name: partition_count}, validate_only=dry_run)
            raise_error(grown[name])
            _tell_grown(name, partition_count, dry_run, as_json)

    with_admin(bootstrap, environment, act)


def _tell_altered_configs(name: str, changes: Iterable[ConfigChange], dry_run: bool, as_json: bool) -> None:
    for change in changes:
        if as_json:
            print_json({"topic": name, "config": change.name, "value": change.value, "dry_run": dry_run})
        elif change.value is None:
            click.echo(f"{name}: {change.name} {'could have' if dry_run else 'has'} its default again")
        else:
            click.echo(f"{name}: {change.name}={change.value}{' is possible' if dry_run else ''}")


def _tell_grown(name: str, partition_count: int, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"topic": name, "partitions": partition_count, "dry_run": dry_run})
    else:
        click.echo(f"{name}: {counted(partition_count, 'partition')}{' are possible' if dry_run else ' now'}")


@command.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--if-exists", is_flag=True, help="Not an error where the topic is not there.")
@bootstrap_option
@json_option
@click.pass_obj
def delete(
    environment: Environment | None,
    names: tuple[str, ...],
    yes: bool,
    if_exists: bool,
    bootstrap: str,
    as_json: bool,
) -> None:
    """Delete topics with all their records."""
    ask_before_deletion("topic", names, "all records", yes=yes)
    outcomes = with_admin(bootstrap, environment, lambda admin: admin.delete_topics(names))
    tell_of_deletion("topic", outcomes, as_json=as_json, forgiven=UnknownTopic if if_exists else None)


def _assignments(texts: Iterable[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator or not key:
            raise CalledWrongly(f"--config: {text!r} is not of the form KEY=VALUE")
        if key in values:
            raise CalledWrongly(f"--config: {key} is set twice")
        values[key] = value
    return values
