"""`penstock quota`: list, set and remove the quotas of clients of any Kafka-speaking cluster.

Owns what is asked and shown. Which quotas there are, and what they may be, brokers say.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import click

from penstock.cli.asking import bootstrap_option, json_option, raise_error, with_admin
from penstock.cli.byte_rates import byte_rate
from penstock.cli.failure import CalledWrongly
from penstock.cli.output import Column, print_json, print_table
from penstock.client.admin import Admin
from penstock.client.admin_quotas import DEFAULT_ENTITY, QuotaEntity
from penstock.runtime.environment import Environment

F = TypeVar("F", bound=Callable[..., None])

DEFAULT_SHOWN = "<default>"
dry_run_option = click.option("--dry-run", is_flag=True, help="Let the broker check it, but do nothing.")


def entity_options(function: F) -> F:
    """The options that say whom a quota is for."""
    for option in reversed(
        (
            click.option("--user", metavar="NAME", help="Of that user."),
            click.option("--user-default", is_flag=True, help="Of each user who has none of their own."),
            click.option("--client-id", metavar="NAME", help="Of that client id."),
            click.option(
                "--client-id-default", is_flag=True, help="Of each client id that has none of its own."
            ),
        )
    ):
        function = option(function)
    return function


@click.group("quota")
def command() -> None:
    """List, set and remove quotas: how fast clients may go."""


@command.command("list")
@bootstrap_option
@json_option
@click.pass_obj
def list_(environment: Environment | None, bootstrap: str, as_json: bool) -> None:
    """List the quotas that are set."""
    found = with_admin(bootstrap, environment, lambda admin: admin.describe_quotas())
    rows = [
        (entity, name, value) for entity, quotas in found.items() for name, value in sorted(quotas.items())
    ]
    if as_json:
        for entity, name, value in rows:
            print_json({**_as_json(entity), "quota": name, "value": value})
        return
    if not rows:
        click.echo("no quotas", err=True)
        return
    columns = [Column("USER"), Column("CLIENT ID"), Column("QUOTA"), Column("VALUE", is_number=True)]
    print_table(
        columns,
        [
            (_shown(entity.user), _shown(entity.client_id), name, number(value))
            for entity, name, value in rows
        ],
    )


@command.command("set")
@click.argument("quotas", metavar="NAME=VALUE...", nargs=-1, required=True)
@entity_options
@dry_run_option
@bootstrap_option
@json_option
@click.pass_obj
def set_(
    environment: Environment | None,
    quotas: tuple[str, ...],
    user: str | None,
    user_default: bool,
    client_id: str | None,
    client_id_default: bool,
    dry_run: bool,
    bootstrap: str,
    as_json: bool,
) -> None:
    """Set quotas of a user, a client id, or a client id of a user.

    Names are Kafka's: producer_byte_rate and consumer_byte_rate in bytes a second (1500000, 1.5MB, 64KiB), request_percentage in percent of
    one core. Each holds for each broker by itself.
    """
    entity = _entity(user, user_default, client_id, client_id_default)
    changes: dict[str, float | None] = {}
    for text in quotas:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise CalledWrongly(f"{text!r} is not of the form NAME=VALUE")
        if name in changes:
            raise CalledWrongly(f"{name} is set twice")
        changes[name] = _value(name, value)
    _alter(environment, bootstrap, entity, lambda _: changes, dry_run=dry_run)
    _tell(entity, changes, dry_run=dry_run, as_json=as_json)


@command.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@entity_options
@dry_run_option
@bootstrap_option
@json_option
@click.pass_obj
def remove(
    environment: Environment | None,
    names: tuple[str, ...],
    user: str | None,
    user_default: bool,
    client_id: str | None,
    client_id_default: bool,
    dry_run: bool,
    bootstrap: str,
    as_json: bool,
) -> None:
    """Remove quotas, all of them if none is named."""
    entity = _entity(user, user_default, client_id, client_id_default)
    removed: dict[str, float | None] = {}

    def choose(present: Mapping[str, float]) -> dict[str, float | None]:
        missing = [name for name in names if name not in present]
        if missing or not present:
            raise CalledWrongly(f"{entity} has no quota{f' {missing[0]}' if missing else ''}")
        removed.update(dict.fromkeys(names or present))
        return removed

    _alter(environment, bootstrap, entity, choose, dry_run=dry_run)
    _tell(entity, removed, dry_run=dry_run, as_json=as_json)


Choose = Callable[[Mapping[str, float]], Mapping[str, float | None]]
"""What to change, given what is set now."""


def _alter(
    environment: Environment | None, bootstrap: str, entity: QuotaEntity, choose: Choose, *, dry_run: bool
) -> None:
    async def act(admin: Admin) -> None:
        present = (await admin.describe_quotas()).get(entity, {})
        outcomes = await admin.alter_quotas({entity: choose(present)}, validate_only=dry_run)
        raise_error(outcomes[entity])

    with_admin(bootstrap, environment, act)


def _entity(
    user: str | None, user_default: bool, client_id: str | None, client_id_default: bool
) -> QuotaEntity:
    for name, is_default, option in (
        (user, user_default, "user"),
        (client_id, client_id_default, "client-id"),
    ):
        if name is not None and is_default:
            raise CalledWrongly(f"--{option} and --{option}-default exclude each other")
        if name == "":
            raise CalledWrongly(f"--{option}: an empty name; --{option}-default is the default")
    entity = QuotaEntity(
        DEFAULT_ENTITY if user_default else user, DEFAULT_ENTITY if client_id_default else client_id
    )
    if entity == QuotaEntity():
        raise CalledWrongly("say whose quota: --user, --user-default, --client-id or --client-id-default")
    return entity


def _value(name: str, text: str) -> float:
    rate = byte_rate(text) if name.endswith("_byte_rate") else None
    if rate is not None:
        return rate
    try:
        return float(text)
    except ValueError:
        raise CalledWrongly(f"{name}: {text!r} is no number") from None


def _tell(entity: QuotaEntity, changes: Mapping[str, float | None], *, dry_run: bool, as_json: bool) -> None:
    for name, value in changes.items():
        if as_json:
            print_json({**_as_json(entity), "quota": name, "value": value, "dry_run": dry_run})
        elif value is None:
            click.echo(f"{entity}: {name} {'could be' if dry_run else 'is'} removed")
        else:
            click.echo(f"{entity}: {name}={number(value)}{' is possible' if dry_run else ''}")


def _as_json(entity: QuotaEntity) -> dict[str, object]:
    """A name, `{"default": true}`, or null where it is for whoever it is."""

    def told(name: str | None) -> object:
        return {"default": True} if name == DEFAULT_ENTITY else name

    return {"user": told(entity.user), "client_id": told(entity.client_id)}


def _shown(name: str | None) -> str | None:
    return DEFAULT_SHOWN if name == DEFAULT_ENTITY else name


def number(value: float) -> str:
    """Without a fraction where there is none."""
    return str(int(value)) if value == int(value) else str(value)
