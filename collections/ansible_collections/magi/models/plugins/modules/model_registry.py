#!/usr/bin/python
# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: model_registry
short_description: Find GGUF models and keep a registry of them
version_added: 0.1.0
description:
  - Finds the GGUF files below some folders, reads their headers as strictly as llama.cpp does, and sorts them
    into models, companions (projectors, adapters, drafters) and rejected files, each with a reason.
  - Understands plain folders, the Hugging Face cache, LM Studio's folders and Ollama's store. Groups shards,
    pairs projectors with the models that they are made for, and recognises copies.
  - Keeps the result in a registry file. As long as no file's size, modification time or inode changes and the
    registry is sound, it returns that, without reading any model.
  - Models with an architecture that the host's llama-server does not know are among RV(rejected), if the binary's file
    tells; the registry file has them as models.
  - A file that can't be used never fails the module; it is listed under RV(rejected).
  - The first look of a deployment at a host also claims it, so that one of two deployments at once refuses
    (M(magi.models.deployment_rollout)).
author:
  - The magi.models maintainers (@magi-models)
extends_documentation_fragment:
  - magi.models.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  scan_paths:
    description:
      - Folders to scan, with all folders below them, or single GGUF files.
      - Warns about one that does not exist. If none exists, the module fails.
    type: list
    elements: path
    required: true
  registry_path:
    description: The registry file, written crash-safely with mode V(0640). Its folder is created if needed.
    type: path
    required: true
  refresh:
    description: Read every header again, whatever the registry says.
    type: bool
    default: false
  checksum:
    description:
      - Compute the SHA-256 of every file, which reads all of it, once.
        Hosts can then be compared by content and not only by header.
    type: bool
    default: false
  host:
    description:
      - Look at the host in the same call, to save another, and return RV(host).
      - The options are those of M(magi.models.model_host_info).
    type: dict
    suboptions:
      home:
        description: Folder of the instance files and of the applied state.
        type: path
        required: true
      manager:
        description: The service manager; V(auto) takes systemd where it is PID 1, else supervisor.
        type: str
        choices: [auto, systemd, supervisor, docker, podman]
        default: auto
      supervisord_path:
        description: The supervisord program, for O(host.manager=supervisor).
        type: path
        default: supervisord
      llama_server_path:
        description: The llama-server binary; without it, none is looked at.
        type: path
      image:
        description: The image that is looked at instead, where O(host.manager) runs containers; without it, llama.cpp's
          own of the build that is at O(host.llama_server_path). It is pulled if it is missing, unless in check mode.
        type: str
        default: ""
      port_range:
        description: First and last port (both included) whose listeners are looked up.
        type: list
        elements: int
        default: [8080, 8099]
      ports:
        description: More ports whose listeners are looked up, such as those that a profile fixes.
        type: list
        elements: int
        default: []
      environment:
        description: Variables that llama-server runs with when it is looked at.
        type: dict
        default: {}
      option_sets:
        description: Sets of options to try on the binary, as M(magi.models.profile_info) returns them.
        type: list
        elements: dict
        default: []
  llama_server_path:
    description: The llama-server whose architectures count if O(host) is not given; else the host's counts.
    type: path
  history:
    description: With O(host), also return what the last deployments made of it, for a rollback.
    type: bool
    default: false
  profile:
    description:
      - With O(host), find what each instance that this profile enables needs of memory, and return RV(needs). It is as
        M(magi.models.profile_info) returns it.
      - The host's own C(llama-fit-params) is asked once for each different model, set of options and build. The answers
        are kept in a file beside the registry, except in check mode.
    type: dict
  options:
    description: The options of this host for all instances of O(profile).
    type: dict
    default: {}
  claim:
    description:
      - With O(host), claim the host for a deployment, before it is looked at, until M(magi.models.llama_instances) has
        changed it. Not in check mode.
      - C(profile) is the name of the profile, C(hosts) are the names of all hosts of the deployment. The claim holds
        for C(seconds), should nobody end it. The action plugin of the same name adds who deploys.
      - It is in a file below C(/run), or in O(host.home) where the connection may not write there.
    type: dict
    default: {}
  fence:
    description:
      - With O(host), first end what a deployment still does there although its controller, on this machine, is gone,
        and its claim.
      - Done by the action plugin of the same name, and not in check mode.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Find the models below two folders
  magi.models.model_registry:
    scan_paths:
      - /models
      - /srv/huggingface/hub
    registry_path: /var/lib/magi/model_registry.json
  register: registry

- name: Show them
  ansible.builtin.debug:
    msg: "{{ registry.table }}"

- name: Read all headers again, and compute checksums
  magi.models.model_registry:
    scan_paths: [/models]
    registry_path: /var/lib/magi/model_registry.json
    refresh: true
    checksum: true
"""

RETURN = r"""
models:
  description: The models, sorted by id. Each is one GGUF file or one complete set of shards.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: What profiles call the model; unique.
      returned: always
      type: str
      sample: deepseek-r1-qwen3-8b-q2_k
    display_name:
      description: The name that the file gives itself, and the quantization.
      returned: always
      type: str
      sample: DeepSeek R1 Qwen3 8B (Q2_K)
    quantization:
      description: The quantization, or C(unknown) with its number.
      returned: always
      type: str
      sample: Q2_K
    tier:
      description: The bits of the quantization.
      returned: always
      type: str
      sample: Q2
    task:
      description: What it is for, V(chat), V(embedding) or V(rerank).
      returned: always
      type: str
      sample: chat
    path:
      description: The file that llama-server gets, or the first shard.
      returned: always
      type: str
      sample: /models/DeepSeek-R1-Qwen3-8B-Q2_K.gguf
    files:
      description: All shards in order, or the one file; sizes in bytes, times in nanoseconds.
      returned: always
      type: list
      elements: dict
      sample:
        - {path: /models/DeepSeek-R1-Qwen3-8B-Q2_K.gguf, size: 3281730464, mtime_ns: 1738911764000000000}
    size_bytes:
      description: Size of all files.
      returned: always
      type: int
      sample: 3281730464
    architecture:
      description: The architecture.
      returned: always
      type: str
      sample: qwen3
    parameter_count:
      description: Number of elements of all tensors.
      returned: always
      type: int
      sample: 8190735360
    context_length:
      description: Tokens that the model was trained for; null if the file does not say.
      returned: always
      type: int
      sample: 131072
    shape:
      description: The numbers for an estimate of its memory; null where the file does not say.
      returned: always
      type: dict
      sample: {block_count: 36, embedding_length: 4096, head_count: 32, head_count_kv: 8, vocab_size: 151936}
    mmproj:
      description: The projector to serve it with, with size in bytes and mtime in nanoseconds, or null.
      returned: always
      type: dict
      sample: {path: /models/mmproj-F16.gguf, size: 851251104, mtime_ns: 1738911764000000000}
    duplicates:
      description: Paths of byte-identical copies.
      returned: always
      type: list
      elements: str
      sample: []
    fingerprint:
      description: SHA-256 of metadata and tensor table, without the elements of long arrays.
      returned: always
      type: str
      sample: a5da80e734e91162d95307a82b176fb7ba6f899dc26606e3defb6619ad938406
    sha256:
      description: SHA-256 of the content; for several shards, that of their digests. Null if never computed.
      returned: always
      type: str
      sample: b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
companions:
  description: Files that serve models but are not models.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The id of a model with this name; not unique.
      returned: always
      type: str
      sample: mmproj-f16
    path:
      description: The file.
      returned: always
      type: str
      sample: /models/mmproj-F16.gguf
    kind:
      description: V(mmproj), V(adapter), V(control_vector) or V(drafter).
      returned: always
      type: str
      sample: mmproj
    name:
      description: The name that the file gives itself, else the file's name.
      returned: always
      type: str
      sample: Gemma 3 4B
    architecture:
      description: The architecture, or null.
      returned: always
      type: str
      sample: clip
    size_bytes:
      description: Its size.
      returned: always
      type: int
      sample: 851251104
    models:
      description: Ids of the models it is served with.
      returned: always
      type: list
      elements: str
      sample: [gemma-3-4b-q4_k_m]
    reason:
      description: Why it is not a model, as a sentence.
      returned: always
      type: str
rejected:
  description: Files that can't be served.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The id of a model with this name; not unique.
      returned: always
      type: str
      sample: llama-70b
    path:
      description: The file.
      returned: always
      type: str
      sample: /models/llama-70b.gguf
    code:
      description: Why, as a stable word.
      returned: always
      type: str
      sample: truncated
    reason:
      description: Why, and what to do, as a sentence.
      returned: always
      type: str
      sample: >-
        /models/llama-70b.gguf is incomplete: it needs at least 42520393472 bytes and has 1048576;
        wait for the download to end, or download it again.
host:
  description: The host as M(magi.models.model_host_info) returns it.
  returned: with O(host)
  type: dict
history:
  description:
    - With O(history), what the last deployments made of the host, the oldest first, each with its C(generation), its
      C(plan), and whether its llama-server is still there (C(runnable)).
  returned: with O(history)
  type: list
  elements: dict
needs:
  description: >-
    By the key of each question, what C(llama-fit-params) says. First the rows (device, and bytes of model, context and
    compute buffer), then why there are none.
  returned: with O(profile), where there is a llama-server
  type: dict
claim:
  description: Our claim to the host.
  returned: with O(claim), except in check mode
  type: dict
claims:
  description: Claims of other deployments that came before, also those of deployments that ended a short while ago.
  returned: with O(claim), except in check mode
  type: list
  elements: dict
claimed_at:
  description: When the claim was made, by the clock of the controller, in seconds since the epoch.
  returned: with O(claim), except in check mode
  type: float
lost:
  description: Sentences about folders that are missing, or had models at the last scan and are empty now.
  returned: success
  type: list
  elements: str
source:
  description: V(cache) if the registry file was returned, V(scan) if files were read.
  returned: success
  type: str
  sample: scan
reason:
  description: Why files were read; null with RV(source=cache).
  returned: success
  type: str
  sample: "files: 1 new"
scan_paths:
  description: The folders, as given.
  returned: success
  type: list
  elements: str
registry_path:
  description: The registry file, as given.
  returned: success
  type: str
table:
  description: The models, and what was set aside and why, as lines to show.
  returned: success
  type: list
  elements: str
progress:
  description: What was done, and how long it took.
  returned: with verbosity 1 and more
  type: list
  elements: str
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible_collections.magi.models.plugins.module_utils._base.files import FileWriteError, make_folder, why
from ansible_collections.magi.models.plugins.module_utils._base.history import history
from ansible_collections.magi.models.plugins.module_utils._base.private_module import PrivateModule
from ansible_collections.magi.models.plugins.module_utils._config.profile import Profile
from ansible_collections.magi.models.plugins.module_utils._host.binary import runnable
from ansible_collections.magi.models.plugins.module_utils._host.claims import end_claim, make_claim
from ansible_collections.magi.models.plugins.module_utils._host.inspect import HOST_OPTIONS, inspect_host
from ansible_collections.magi.models.plugins.module_utils._host.needs import needs_path, read_needs
from ansible_collections.magi.models.plugins.module_utils._host.values import Claim
from ansible_collections.magi.models.plugins.module_utils._llama.architectures import unknown_architectures
from ansible_collections.magi.models.plugins.module_utils._models.registry import save
from ansible_collections.magi.models.plugins.module_utils._models.scan import ScanError, discover
from ansible_collections.magi.models.plugins.module_utils._models.show import difference, inventory_lines
from ansible_collections.magi.models.plugins.module_utils._plan.need import questions
from ansible_collections.magi.models.plugins.module_utils._services.choice import chosen, usable
from ansible_collections.magi.models.plugins.module_utils._services.values import ServiceError


def main() -> None:
    module = PrivateModule(
        argument_spec={
            "scan_paths": {"type": "list", "elements": "path", "required": True},
            "registry_path": {"type": "path", "required": True},
            "refresh": {"type": "bool", "default": False},
            "checksum": {"type": "bool", "default": False},
            "host": {"type": "dict", "options": HOST_OPTIONS},
            "llama_server_path": {"type": "path"},
            "history": {"type": "bool", "default": False},
            "profile": {"type": "dict"},
            "options": {"type": "dict", "default": {}},
            "claim": {"type": "dict", "default": {}},
            "fence": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    options = module.params
    progress: list[str] = []

    def follow(line: str) -> None:
        """A module can't print while it runs: the log gets the lines at once, the caller at the end."""
        if module._verbosity > 0:
            progress.append(line)
            module.tell(f"model_registry: {line}")

    path = options["registry_path"]
    try:
        found = discover(options["scan_paths"], path, options["refresh"], options["checksum"], follow)
    except ScanError as error:
        module.fail_json(msg=str(error))
    for warning in found.warnings:
        module.warn(warning)
    if found.write and not module.check_mode:
        try:
            make_folder(Path(path).parent)
            save(path, found.registry)
        except FileWriteError as error:
            module.fail_json(msg=f"Can't write {error.filename}: {why(error, 'model_server_registry_path')}.")
    inventory, host, claimed = found.registry.inventory, None, {}
    past: list[dict[str, Any]] = []
    if options["host"]:
        home = options["host"]["home"]
        try:
            if options["claim"] and not module.check_mode:  # first: what another changes later is refused
                usable(chosen(options["host"]["manager"], home))
                mine, before = make_claim(home, Claim.from_dict(options["claim"]))
                claimed = {"claim": asdict(mine), "claims": [asdict(item) for item in before]}
            if options["history"]:
                past = history(home)
                options["host"]["ports"] += [item["port"] for made in past for item in made["plan"]["instances"]]
            must_read = [file.path for model in inventory.models for file in model.files]
            host = inspect_host(
                **options["host"],
                must_read=must_read,
                model_folders=options["scan_paths"],
                fetch=not module.check_mode,
            )
        except (FileWriteError, ServiceError, ValueError) as error:
            if claimed:
                end_claim(home, mine)
            module.fail_json(msg=str(error))
    binary = host.binary.path if host and host.binary else options["llama_server_path"]
    if binary:  # not in the registry: another build may know more
        build = host.binary.version if host and host.binary else ""
        unknown = unknown_architectures(binary, build, {model.architecture for model in inventory.models})
        inventory = inventory.without(unknown, build or binary)
    result = {
        **inventory.to_dict(),
        "scan_paths": options["scan_paths"],
        "lost": list(found.lost),
        "source": found.source,
        "reason": found.reason,
        "registry_path": path,
        "table": inventory_lines(inventory),
        "changed": found.changed,
        **claimed,
    }
    if host:
        result["host"] = host.to_dict()
    if options["history"]:
        result["history"] = [
            {
                **{name: made[name] for name in ("generation", "plan")},
                "runnable": runnable(chosen(options["host"]["manager"], home), made["plan"]["llama_server_path"]),
            }
            for made in past
        ]
    if host and host.binary and options["profile"]:
        profile, variables = Profile.from_dict(options["profile"]), options["host"]["environment"]
        asked = questions(profile, inventory, host.binary, options["options"], variables)
        known = needs_path(path)
        result["needs"] = read_needs(host.binary, asked, known, write=not module.check_mode, refresh=options["refresh"])
    if module._diff:
        header = {"before_header": path, "after_header": path}
        result["diff"] = {**header, **difference(found.before and found.before.inventory, found.registry.inventory)}
    if progress:
        result["progress"] = progress
    module.exit_json(**result)


if __name__ == "__main__":
    main()
