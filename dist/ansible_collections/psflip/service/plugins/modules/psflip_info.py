#!/usr/bin/python
# Copyright: the psflip developers
# SPDX-License-Identifier: MIT OR Apache-2.0

from __future__ import (absolute_import, division, print_function)
__metaclass__ = type

DOCUMENTATION = r'''
---
module: psflip_info
short_description: Read the state of a service that runs under psflip
version_added: 0.1.0
description:
  - Runs C(psflip status --json). It changes nothing, and does not fail if the service is down.
extends_documentation_fragment:
  - psflip.service.psflip
attributes:
  check_mode:
    description: It changes nothing.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
seealso:
  - module: psflip.service.psflip_upgrade
author:
  - The psflip developers (@psflip)
'''

EXAMPLES = r'''
- name: Read the state
  psflip.service.psflip_info:
    name: app
  register: app

- name: Wait until no generation bakes any more
  psflip.service.psflip_info:
    name: app
  register: app
  until: app.running and not app.baking
  retries: 60
  delay: 2
'''

RETURN = r'''
running:
  description: Whether psflip answers.
  returned: always
  type: bool
reason:
  description: Why it does not answer, and how the service went down, if that is known.
  returned: when it does not run
  type: str
generation:
  description: The generation that is the service. While another one bakes, it is the one that stands by.
  returned: when it runs
  type: int
  sample: 7
baking:
  description: Whether a new generation has the traffic on trial.
  returned: when it runs
  type: bool
bake_left:
  description: How many seconds it still has it on trial.
  returned: when a generation bakes
  type: float
changed_files:
  description: What is on disk that the running generation was not started from.
  returned: when it runs
  type: list
  elements: str
last_upgrade:
  description: The record of the last upgrade that has ended.
  returned: when there was one
  type: dict
  sample: {"upgrade": 8, "from": 7, "to": 8, "result": "rolled_back", "reason": "requested by pid 415 (root)"}
status:
  description: All of C(psflip status --json).
  returned: when it runs
  type: dict
'''

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.psflip.service.plugins.module_utils import psflip as common


def main():
    module = AnsibleModule(
        argument_spec=dict(common.ARGUMENTS),
        mutually_exclusive=common.EXCLUSIVE,
        required_one_of=common.ONE_OF,
        supports_check_mode=True,
    )
    psflip = common.Psflip(module)
    status, why = psflip.status()
    if status is None:
        module.exit_json(changed=False, running=False, reason=why)
    left = status.get('bake_left_ms')
    result = dict(
        running=True,
        generation=status['generation'],
        baking=left is not None,
        changed_files=common.what_changed(status, psflip.running_config()),
        status=status,
    )
    if left is not None:
        result['bake_left'] = left / 1000.0
    over = [record for record in status.get('history', []) if record.get('result')]
    if over:
        result['last_upgrade'] = over[-1]
    module.exit_json(changed=False, **result)


if __name__ == '__main__':
    main()
