#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: model_gateway_handover
short_description: Take requests from servers that go, and give them to those that have come
version_added: 0.2.0
author:
  - The magi.models maintainers (@magi-models)
description:
  - While a host is deployed, a gateway that runs and was prepared for it (M(magi.models.model_gateway)) is told which
    servers to use, without a reload.
  - With O(step=meeting), what was started beside the old servers gets requests once the gateway's own checks find it
    up, which the module awaits.
  - With O(step=leaving), what is to end or to restart gets no more requests, and the module waits until none is at it;
    M(magi.models.llama_instances) may then end it. If the gateway does not find up what is to serve meanwhile, nothing
    is done, and RV(refused) says so.
  - With O(step=arriving), what has restarted gets requests again.
  - With O(step=relieving), what stood in for it gets no more, and the module waits until no request is at it.
  - With O(step=stopping), the same holds for what is stopped without a deployment. With O(step=stopped), which comes
    afterwards, it gets requests again once the gateway's own checks find that it is back.
  - An action plugin of the same name decides it on the controller.
extends_documentation_fragment:
  - magi.models.attributes
  - magi.models.attributes.info_module
attributes:
  check_mode:
    support: full
    description: Tells the gateway nothing.
options:
  step:
    description:
      - After others were started beside them, before servers go, after servers came, before what stood in for them
        ends, or before and after they are stopped.
        V(counted) only returns what each has done since HAProxy took its configuration.
    type: str
    choices: [meeting, leaving, arriving, relieving, stopping, stopped, counted]
    required: true
  hosts:
    description: By host, what its tasks registered, as for M(magi.models.deployment_report).
    type: dict
    default: {}
  batch:
    description: The hosts that are deployed, or stopped, now.
    type: list
    elements: str
    default: []
  instances:
    description: For O(step=stopping) and O(step=stopped), the instances. Without it, all of these hosts.
    type: list
    elements: str
  gateway:
    description: What M(magi.models.model_gateway) returned as C(gateway).
    type: dict
    required: true
  seconds:
    description: How long to wait for requests in flight, or for more answers of canaries, at most.
    type: int
    default: 30
  before:
    description:
      - For O(step=counted), the C(counts) of before a watch that ends now, for O(batch). If a server that was launched
        there has answered too few requests to be judged, and some wait for it, RV(later) is returned, too.
    type: list
    elements: dict
  job:
    description: What the action plugin decided. Leave it out.
    type: dict
"""

EXAMPLES = r"""
- name: Take requests from what goes
  magi.models.model_gateway_handover:
    step: leaving
    hosts: "{{ __model_server_hosts }}"
    batch: "{{ ansible_play_batch }}"
    gateway: "{{ hostvars['gw1'].__gateway_prepared.gateway }}"
  delegate_to: gw1
  run_once: true
"""

RETURN = r"""
left:
  description: Requests that were still in flight when the time ran out; -1 if HAProxy did not say.
  returned: always
  type: int
missed:
  description:
    - The places, backend and server as the gateway calls them, of servers that have come, or that are to serve while
      others go, and that the gateway's own checks do not find up.
  returned: if it looked
  type: list
  elements: str
refused:
  description:
    - Why it was told nothing, in a sentence, so that what is to go still serves, and must not end.
  returned: if some of them is needed
  type: str
warned:
  description: What a warning says of requests that were still in flight, or of a gateway that could not be told.
  returned: if there is one
  type: str
counts:
  description:
    - What each server has done, with C(server) as the gateway calls it, C(requests), C(failed) of them, and
      C(first_byte_ms), the mean time until an answer began.
  returned: for O(step=counted)
  type: list
  elements: dict
later:
  description: The same, RV(waited) seconds later.
  returned: for O(step=counted), if it was waited for more answers
  type: list
  elements: dict
waited:
  description: How many seconds that took.
  returned: for O(step=counted)
  type: float
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.magi.models.plugins.module_utils._haproxy.choice import gateway_service
from ansible_collections.magi.models.plugins.module_utils._haproxy.options import HANDOVER_OPTIONS
from ansible_collections.magi.models.plugins.module_utils._haproxy.runtime import (
    RefusedError,
    await_answers,
    await_empty,
    await_up,
    counts,
    drain,
    enable,
    forget,
    leave_to_checks,
    up,
)

PATIENCE = 10
"""Seconds within which a server that is ready must be so for the gateway: it is asked each half second."""


def main() -> None:
    module = AnsibleModule(argument_spec=HANDOVER_OPTIONS, supports_check_mode=True)
    job, gateway = module.params["job"], module.params["gateway"]
    if module.params["step"] == "counted":
        path, begun = gateway_service(gateway["manager"], gateway["home"]).sockets.stats, time.monotonic()
        found = await_answers(path, job["answers"], module.params["seconds"]) if job else counts(path)
        waited = round(time.monotonic() - begun, 3)
        module.exit_json(changed=False, left=0, waited=waited, counts=[item.to_dict() for item in found])
    if job is None:
        module.fail_json(
            msg="model_gateway_handover has an action plugin of the same name that must call it; use it as a task."
        )
    left = 0
    if not module.check_mode:
        sockets = gateway_service(gateway["manager"], gateway["home"]).sockets
        try:
            if module.params["step"] == "meeting":
                await_up(sockets.stats, job["comes"], PATIENCE)
            there = up(sockets.stats) if job["needed"] or job["comes"] else set()
            needed = [place for places in job["needed"] if not {*places} & there for place in places]
            if needed or module.params["step"] == "meeting":
                missed = sorted({*job["comes"], *needed} - there)
                module.exit_json(changed=False, left=0, missed=missed, refuses=bool(needed))
            deadline = time.monotonic() + module.params["seconds"]
            enable(sockets.stats, job["ready"])
            leave_to_checks(sockets.stats, job["down"])
            forget(sockets.stats, job["forget"])
            # What waits for a model that is forgotten is still served: its servers are drained when nothing does.
            last = [place for place in job["drain"] if place.split("/")[0] in job["left"]]
            drain(sockets.stats, [place for place in job["drain"] if place not in last])
            if last:
                await_empty(sockets, (), (), job["left"], module.params["seconds"])
                drain(sockets.stats, last)
        except RefusedError as error:
            module.fail_json(msg=f"HAProxy did not take {error}")
        if job["drain"]:
            rest = max(0.0, deadline - time.monotonic())
            left = await_empty(sockets, job["empty"], job["empty_before"], job["left"], rest)
    module.exit_json(changed=False, left=left)


if __name__ == "__main__":
    main()
