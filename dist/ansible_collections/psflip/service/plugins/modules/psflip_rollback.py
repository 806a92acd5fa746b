#!/usr/bin/python
# Copyright: the psflip developers
# SPDX-License-Identifier: MIT OR Apache-2.0

from __future__ import (absolute_import, division, print_function)
__metaclass__ = type

DOCUMENTATION = r'''
---
module: psflip_rollback
short_description: Give the traffic back to the old version while the new one bakes
version_added: 0.1.0
description:
  - Runs C(psflip rollback) if a new generation bakes (C(upgrade.bake)), and waits until the old one has the traffic and
    the new one is gone.
  - If nothing bakes, it changes nothing. With O(required) it fails then.
  - The files on the host stay those of the new version. Put the old ones back, or the next upgrade, or the next start of
    the service, has the new version again.
extends_documentation_fragment:
  - psflip.service.psflip
options:
  generation:
    description:
      - Roll back only if this generation bakes, so that the upgrade of another person is left alone.
    type: int
  upgrade:
    description:
      - Roll back only if what bakes came by this upgrade, a number that M(psflip.service.psflip_upgrade) returns.
    type: int
  timeout:
    description:
      - How long to wait until the new generation is gone, as psflip writes durations (V(30s)). The old one has the
        traffic at once; the roll-back goes on after it.
    type: str
  required:
    description:
      - Fail if there is nothing to roll back.
    type: bool
    default: false
attributes:
  check_mode:
    description: Reports whether a generation would be rolled back.
    support: full
  diff_mode:
    description: There is no difference of files.
    support: none
seealso:
  - module: psflip.service.psflip_upgrade
author:
  - The psflip developers (@psflip)
'''

EXAMPLES = r'''
- name: Go back to the version before, if the new one is still on trial
  psflip.service.psflip_rollback:
    name: app

- name: Go back only from the generation that this play has started
  psflip.service.psflip_rollback:
    name: app
    generation: "{{ upgraded.generation }}"
    required: true
'''

RETURN = r'''
generation:
  description: The generation that serves afterwards.
  returned: always
  type: int
  sample: 7
rolled_back:
  description: The generation that lost the traffic.
  returned: changed
  type: int
  sample: 8
reason:
  description: Why nothing was rolled back.
  returned: when nothing was
  type: str
'''

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.psflip.service.plugins.module_utils import psflip as common

# The exit code of `psflip rollback` that has requested the roll-back and then waited too long.
TIMED_OUT = 124


def main():
    module = AnsibleModule(
        argument_spec=dict(
            common.ARGUMENTS,
            generation=dict(type='int'),
            upgrade=dict(type='int'),
            timeout=dict(type='str'),
            required=dict(type='bool', default=False),
        ),
        mutually_exclusive=common.EXCLUSIVE,
        required_one_of=common.ONE_OF,
        supports_check_mode=True,
    )
    psflip = common.Psflip(module)
    status = psflip.need_status()
    under_way = (status.get('upgrade') or {}) if status.get('bake_left_ms') is not None else {}
    bakes = under_way.get('to')
    wanted = module.params['generation']
    number = module.params['upgrade']
    result = dict(generation=status['generation'])

    def leave(reason):
        if module.params['required']:
            module.fail_json(msg=reason, reason=reason, **result)
        module.exit_json(changed=False, reason=reason, **result)

    if bakes is None:
        leave('no generation bakes: there is nothing to roll back')
    if wanted is not None and bakes != wanted:
        leave('generation %d does not bake; generation %d does' % (wanted, bakes))
    if number is not None and under_way.get('upgrade') != number:
        leave('generation %d bakes by upgrade %s, not by upgrade %d' % (bakes, under_way.get('upgrade'), number))
    result['rolled_back'] = bakes
    if module.check_mode:
        module.exit_json(changed=True, **result)
    timeout = ['--timeout', module.params['timeout']] if module.params['timeout'] else []
    code, dummy, errors = psflip.run('rollback', *timeout)
    if code in (0, TIMED_OUT):
        module.exit_json(changed=True, **result)
    del result['rolled_back']
    # Its bake may have ended, or another client may have rolled it back, since the status was read.
    if psflip.need_status().get('bake_left_ms') is None:
        leave(errors.strip())
    module.fail_json(msg=errors.strip() or 'psflip rollback: exit code %d' % code, **result)


if __name__ == '__main__':
    main()
