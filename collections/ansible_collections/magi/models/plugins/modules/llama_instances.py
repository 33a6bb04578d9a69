#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_instances
short_description: Make a host run its plan, stop instances, or remove them all
version_added: 0.1.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - Applies the plan that M(magi.models.deployment_plan) made, in one call for all instances of a host.
  - An action plugin renders the templates on the controller and calls the module of the same name on the host.
  - Refuses when another deployment changed the host since the plan was made, and names it.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.services
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Shows every file and every action, done or only planned.
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) makes the host run the plan.
      - V(stopped) stops instances gracefully and keeps their definitions.
      - V(absent) stops all instances and removes everything that was deployed.
      - V(fenced) ends what a deployment still does on the host although its controller is gone. The action plugin of
        M(magi.models.model_registry) uses it.
      - V(released) ends the deployment's claim to the host. Action plugins use it.
    type: str
    choices: [present, stopped, absent, fenced, released]
    default: present
  plan:
    description: The plan, for O(state=present).
    type: dict
  home:
    description: Folder of the instance files and of the applied state. For O(state=present), that of the plan.
    type: path
    required: false
  templates_dir:
    description:
      - Folder on the controller whose templates replace the role's templates of the same name, for O(state=present).
      - Evaluated by the action plugin of the same name.
    type: path
  model_folders:
    description:
      - Folders of models, which the services may read even in a home folder, for O(state=present).
      - Evaluated by the action plugin of the same name.
    type: list
    elements: path
    default: []
  claim:
    description:
      - The claim to the host, from M(magi.models.model_registry), for O(state=present). Without it still there, nothing
        is changed, and behind this call it has ended.
      - Evaluated by the action plugin of the same name.
    type: dict
  unreached:
    description:
      - The hosts that the deployment could not claim, from M(magi.models.deployment_rollout), for O(state=present).
      - Evaluated by the action plugin of the same name.
    type: list
    elements: str
    default: []
  held_back:
    description:
      - Why the host is not deployed, if it is not; then nothing but O(claim) ends.
      - Evaluated by the action plugin of the same name.
    type: str
    default: ""
  beside:
    description:
      - Start these instances alone, beside all that runs; O(claim) goes on, as another call follows with O(begun).
      - Evaluated by the action plugin of the same name.
    type: list
    elements: str
  begun:
    description:
      - The result of an earlier call. What that started is left as it is, and returned with the rest.
      - Evaluated by the action plugin of the same name.
    type: dict
  stand_ins:
    description:
      - What stands in for instances that restart, from M(magi.models.deployment_rollout). It is in no plan; it starts
        with O(beside), and is left as it is with O(begun).
      - Evaluated by the action plugin of the same name.
    type: list
    elements: dict
    default: []
  relieves:
    description:
      - End O(stand_ins), after the call of which O(begun) is the result.
      - Evaluated by the action plugin of the same name.
    type: bool
    default: false
  ends:
    description:
      - End those O(beside) instead, also if they are to restart. A server ends before the workers that compute for it
        do; it starts again in the call that gets the result of this one as O(begun).
      - Evaluated by the action plugin of the same name.
    type: bool
    default: false
  began_at:
    description:
      - When the deployment began, from M(magi.models.deployment_rollout), for O(state=present). What it makes of the
        host is remembered by that, with the two deployments before it, so that a rollback can bring it back.
      - Evaluated by the action plugin of the same name.
    type: float
  names:
    description:
      - The instances to stop, for O(state=stopped); all by default.
      - Warns about one that the host does not have, as another host may have it.
    type: list
    elements: str
  workers:
    description:
      - For O(state=stopped) and O(state=absent). If false, workers that servers of other hosts may use are left, and
        with O(state=absent) all but the servers on such a host; RV(workers) names them, for a second call once the
        servers of all hosts have ended.
    type: bool
    default: true
  concurrent_starts:
    description: Start all together; if false, start one, wait until it is ready, start the next.
    type: bool
    default: true
  max_startup_time:
    description: Seconds that a server may take to become ready.
    type: int
    default: 120
  readiness_check_interval:
    description: Seconds between health checks.
    type: int
    default: 2
  stop_timeout:
    description: Seconds to wait for requests in flight before a server is stopped.
    type: int
    default: 30
  also_remove:
    description: More files of ours to remove, for O(state=absent), such as the registry.
    type: list
    elements: path
    default: []
  job:
    description: What the action plugin hands to the module on the host. Not for use in a playbook.
    type: dict
"""

EXAMPLES = r"""
- name: Make the host run its plan
  magi.models.llama_instances:
    plan: "{{ planned.plan }}"

- name: Stop one instance, letting it finish its requests for up to a minute
  magi.models.llama_instances:
    state: stopped
    home: /etc/magi
    names: [deepseek-r1-qwen3-8b-q2_k]
    stop_timeout: 60

- name: Remove everything that was deployed
  magi.models.llama_instances:
    state: absent
    home: /etc/magi
"""

RETURN = r"""
actions:
  description: What was done for each instance, or would be done in check mode.
  returned: always
  type: list
  elements: dict
  contains:
    instance:
      description: Name of the instance.
      type: str
      returned: always
    action:
      description: start, restart, stop, remove, keep or quarantine.
      type: str
      returned: always
    reason:
      description: Why.
      type: str
      returned: always
    launched:
      description: Whether it started and did not end; true if nothing had to start, false in quarantine.
      type: bool
      returned: always
    cause:
      description: Code of what went wrong, such as file_corrupt; empty if nothing did.
      type: str
      returned: always
    detail:
      description: What is wrong and the remedy.
      type: str
      returned: always
    ready:
      description: Whether C(/health) answered 200 within ten seconds.
      type: bool
      returned: always
    cut:
      description:
        - Requests still in flight when O(stop_timeout) ran out and it was ended; null if it did not say how many.
      type: int
      returned: always
    log:
      description: The last lines of an instance that failed.
      type: list
      elements: str
      returned: always
host:
  description: What runs on the host now, as M(magi.models.model_host_info) returns it with O(ignore:identify).
  returned: for O(state=present), except in check mode
  type: dict
instances:
  description: Names of all instances that the host has, or had before its teardown, sorted.
  returned: for O(state=stopped) and O(state=absent)
  type: list
  elements: str
workers:
  description: Names of workers that were left (O(workers)).
  returned: for O(state=stopped) and O(state=absent)
  type: list
  elements: str
waiting:
  description: Names of the instances that still load.
  returned: always
  type: list
  elements: str
deadline:
  description: When they must have become ready, in seconds since the epoch.
  returned: always
  type: float
generation:
  description: The applied state of the host now.
  returned: always
  type: dict
"""

from dataclasses import asdict, replace

from ansible_collections.magi.models.plugins.module_utils._base.files import why
from ansible_collections.magi.models.plugins.module_utils._base.private_module import PrivateModule
from ansible_collections.magi.models.plugins.module_utils._config.timing import TIMING
from ansible_collections.magi.models.plugins.module_utils._host.apply import (
    Applied,
    Job,
    absent,
    fence,
    files_of,
    present,
    stopped,
)
from ansible_collections.magi.models.plugins.module_utils._host.claims import end_claim, forget_claims
from ansible_collections.magi.models.plugins.module_utils._host.inspect import read_host
from ansible_collections.magi.models.plugins.module_utils._host.lock import ConflictError
from ansible_collections.magi.models.plugins.module_utils._host.values import Claim, Generation, Holder
from ansible_collections.magi.models.plugins.module_utils._llama.keys import KeyFileError
from ansible_collections.magi.models.plugins.module_utils._plan.values import Action
from ansible_collections.magi.models.plugins.module_utils._services.choice import SERVICE_OPTIONS, chosen, usable
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError, ServiceFile

_STATES = ("present", "stopped", "absent", "fenced", "released")


def main() -> None:
    module = PrivateModule(
        argument_spec={
            "state": {"type": "str", "choices": [*_STATES], "default": "present"},
            "plan": {"type": "dict"},
            **SERVICE_OPTIONS,
            "home": {"type": "path"},
            "templates_dir": {"type": "path"},
            "model_folders": {"type": "list", "elements": "path", "default": []},
            "claim": {"type": "dict"},
            "unreached": {"type": "list", "elements": "str", "default": []},
            "held_back": {"type": "str", "default": ""},
            "beside": {"type": "list", "elements": "str"},
            "begun": {"type": "dict"},
            "stand_ins": {"type": "list", "elements": "dict", "default": []},
            "relieves": {"type": "bool", "default": False},
            "ends": {"type": "bool", "default": False},
            "began_at": {"type": "float"},
            "names": {"type": "list", "elements": "str"},
            "workers": {"type": "bool", "default": True},
            "concurrent_starts": {"type": "bool", "default": True},
            **TIMING,
            "also_remove": {"type": "list", "elements": "path", "default": []},
            "job": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    params = module.params
    given = params["job"]
    if given is None or not params["home"]:
        module.fail_json(msg="llama_instances needs its action plugin and a home or a plan; call it from a playbook.")
    job = Job(
        home=params["home"],
        files=tuple(ServiceFile(**item) for item in given["files"]),
        instances={item["name"]: item for item in given["instances"]},
        actions=tuple(map(Action.from_dict, given["actions"])),
        generation=Generation(**given["generation"]),
        profile=given["profile"],
        deployment=given["deployment"],
        controller=given["controller"],
        controller_pid=given["controller_pid"],
        concurrent_starts=params["concurrent_starts"],
        max_startup_time=params["max_startup_time"],
        readiness_check_interval=params["readiness_check_interval"],
        stop_timeout=params["stop_timeout"],
        claim=Claim.from_dict(given["claim"]) if given.get("claim") else None,
        unreached=given.get("unreached", ()),
        beside=given.get("beside", False),
        followed=given.get("followed", False),
        began_at=given.get("began_at", 0),
        plan=given.get("plan", {}),
    )
    check = module.check_mode
    host = None
    try:
        if params["state"] == "fenced":
            if given["holder"]:
                fence(job.home, Holder(**given["holder"]))
            forget_claims(job.home, tuple(map(Claim.from_dict, given["claims"])))
            result = Applied(True)
        elif params["state"] == "released":
            if job.claim:
                end_claim(job.home, job.claim)
            result = Applied(False)
        else:
            manager = usable(chosen(params["manager"], params["home"], params["supervisord_path"]))
            if params["state"] == "present":
                if given.get("restores") is not None:
                    job = replace(job, files=files_of(manager, job.home, given["restores"], job.instances))
                result = present(manager, job, check_mode=check)
                if not check:
                    host = read_host(manager, job.home, ask=True)
            elif params["state"] == "stopped":
                result = stopped(manager, job, params["names"], check_mode=check, workers=params["workers"])
            else:
                also = params["also_remove"]
                result = absent(manager, job, check_mode=check, also=also, workers=params["workers"])
    except (ConflictError, KeyFileError, ServiceError) as error:
        module.fail_json(msg=f"{error}")
    except OSError as error:
        path = str(error.filename or job.home)
        setting = "model_server_home" if path.startswith(job.home) else None
        module.fail_json(msg=f"{path}: {why(error, setting)}.")
    for name in sorted({*(params["names"] or ())} - {*result.instances}) if params["state"] == "stopped" else ():
        module.warn(f"there is no instance {name} in {job.home}; it has {', '.join(result.instances) or 'none'}.")
    for item in result.actions:
        if item.cut_off:
            module.warn(item.cut_off)
    module.exit_json(
        changed=result.changed,
        waited=result.waited,
        waiting=[i.instance for i in result.actions if host and i.instance in job.instances and i.loads],
        **({"host": host.to_dict()} if host else {}),
        actions=[item.to_dict() for item in result.actions],
        generation=asdict(result.generation),
        **(
            {"instances": list(result.instances), "workers": list(result.workers)}
            if params["state"] in ("stopped", "absent")
            else {}
        ),
        diff=list(result.diff),
    )


if __name__ == "__main__":
    main()
