"""What goes in and out of the API, for its OpenAPI document. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
"""Of a profile, an instance or a key: as a variable, anything else could be a template to Ansible."""
Hosts = Annotated[str, Field(pattern=r"^[A-Za-z0-9*][A-Za-z0-9._,:!&*\[\]-]*$", max_length=1000)]
"""A pattern of hosts; without @, which would name a file."""
LONGEST = 500_000
"""Characters of a profile."""
Text = Annotated[str, Field(max_length=LONGEST)]


class Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Change(Given):
    check: bool = Field(False, description="Change nothing.")
    limit: Hosts | None = Field(None, description="Only these hosts.")


class Up(Change):
    profile: Name | None = Field(None, description="Default: that of the settings.")
    strict: bool = Field(False, description="Fail if anything is degraded.")


class Stop(Change):
    instances: list[Name] = Field([], description="Default: all.", max_length=1000)


class Draft(Given):
    text: Text = Field(description="The profile, as YAML.")


class Saved(Given):
    text: Text = Field(description="The profile, as YAML.")
    version: str | None = Field(None, description="The version that was read; null: it is a new profile.")


class NewKey(Given):
    name: Name = Field(description="Who has it, as the gateway's log shows it.")
    models: list[Annotated[str, Field(max_length=200)]] = Field([], description="Globs of models. Default: all.")
    concurrent: int | None = Field(None, ge=1, le=1_000_000, description="Requests at the same time.")
    per_minute: int | None = Field(None, ge=1, le=1_000_000, description="Requests a minute.")
    expires: str | None = Field(None, max_length=10, description="Its last day in UTC, YYYY-MM-DD.")


class Remark(BaseModel):
    line: int | None
    message: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What is wrong, and the remedy: one sentence.")
    exit_code: int | None = Field(None, description="That of the verb (docs/controller.md).")
    document: dict[str, Any] | None = Field(None, description="What was still found or done.")
    problems: list[Remark] | None = Field(None, description="All that is wrong with a profile.")
    text: str | None = Field(None, description="The profile that is there now, where another was read.")
    version: str | None = Field(None, description="Its version; null: it is gone.")
    difference: str | None = Field(None, description="From what is there now to what was not saved.")


class Look(BaseModel):
    """What was last seen on the hosts."""

    seen_at: datetime
    age: float = Field(description="Seconds since then.")
    refreshing: bool = Field(description="Whether it is read again now.")
    exit_code: int = Field(description="That of the verb (docs/controller.md).")
    problem: str | None = Field(description="What was wrong with some hosts, or with a later look that failed.")
    document: dict[str, Any] = Field(description="As --json of the verb prints it (docs/controller.md).")


class Job(BaseModel):
    id: str
    verb: str
    given: dict[str, Any]
    by: str = Field(description="The role whose token asked for it.")
    began: float = Field(description="Seconds since the epoch.")
    state: str = Field(description="running, done, failed or cancelled.")
    exit_code: int | None = Field(description="That of the verb (docs/controller.md); null while it runs.")
    problem: str | None = Field(description="What is wrong, and the remedy: one sentence.")
    ended: float | None


class JobResult(Job):
    document: dict[str, Any] | None = Field(description="As --json of the verb prints it; null while it runs.")


class ProfileEntry(BaseModel):
    name: str
    description: str | None
    valid: bool


class Profile(BaseModel):
    name: str
    text: str
    version: str = Field(description="Give it back when you save.")
    valid: bool
    problems: list[Remark]


class Checked(BaseModel):
    valid: bool
    problems: list[Remark]


class Preview(BaseModel):
    exit_code: int = Field(description="That of magi plan (docs/controller.md).")
    problem: str | None = Field(description="What was wrong with some hosts.")
    document: dict[str, Any] = Field(description="As magi plan --json prints it (docs/controller.md).")


class Key(BaseModel):
    name: str
    key: str = Field(description="It is nowhere else.")
    hosts: list[str] = Field(description="Gateways that have it.")
    gateways: dict[str, Any]


class OlderServer(BaseModel):
    model_id: str
    display_name: str
    port: int | None
    pid: int | None
    is_ready: bool
    tier: str | None


class OlderServers(BaseModel):
    total_servers: int
    ready_servers: int
    servers: list[OlderServer]


class OlderModel(BaseModel):
    id: str
    name: str
    tier: str | None
    port: int | None
    state: str = Field(description="active, processing, error or offline.")
    memoryUsed: int
    memoryTotal: int
    requestCount: int
    avgResponseTime: float
    lastActive: datetime
    errorCount: int
    uptimeSeconds: int


class OlderStatus(BaseModel):
    models: list[OlderModel]
    totalVramGb: float
    totalVramUsedGb: float
    cacheHitRate: float
    activeQueries: int
    totalRequests: int
    timestamp: datetime
