# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every module of this collection says about check mode, diff mode and idempotency."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
requirements:
  - python >= 3.9 where it runs, and nothing but its standard library
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what it would change without changing anything.
  diff_mode:
    description: In diff mode, returns what it changed or would change.
  idempotent:
    description: If nothing changes between two runs, the second run changes nothing.
"""
    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details: This module changes nothing.
  diff_mode:
    support: N/A
    details: This module changes nothing.
  idempotent:
    support: full
    details: This module changes nothing.
"""
