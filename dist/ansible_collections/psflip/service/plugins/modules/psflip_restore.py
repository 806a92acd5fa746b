#!/usr/bin/python
# Copyright: the psflip developers
# SPDX-License-Identifier: MIT OR Apache-2.0

from __future__ import (absolute_import, division, print_function)
__metaclass__ = type

DOCUMENTATION = r'''
---
module: psflip_restore
short_description: Put the files back that the running generation was started from
version_added: 0.1.0
description:
  - For use after an upgrade that failed or was rolled back. The next upgrade or start of the service then has the
    version that runs.
  - The configuration comes from C(psflip status --running-config), and the release from the paths in C(psflip status).
    So it does not matter which run of a playbook has replaced them, and a version that became active keeps its files.
  - It waits until no upgrade is under way and nothing bakes, and fails without a change if that takes too long.
extends_documentation_fragment:
  - psflip.service.psflip
options:
  current:
    description:
      - A symlink to a release, such as C(/srv/app/current). It is repointed to the release in the directory C(releases)
        beside it from which the running generation was started.
    type: path
  upgrade:
    description:
      - The number of an upgrade whose result to report.
    type: int
  settled_within:
    description:
      - How many seconds to wait for the end of an upgrade, or of its bake.
    type: int
    default: 30
attributes:
  check_mode:
    description: Reports what would be put back.
    support: full
  diff_mode:
    description: The configuration is not shown, since it may contain secrets.
    support: none
seealso:
  - module: psflip.service.psflip_rollback
author:
  - The psflip developers (@psflip)
'''

EXAMPLES = r'''
- name: Go back to the version before, if the new one is still on trial
  psflip.service.psflip_rollback:
    name: app

- name: Put its files back
  psflip.service.psflip_restore:
    name: app
    current: /srv/app/current
'''

RETURN = r'''
restored:
  description: What was put back, the configuration or the symlink.
  returned: when the service runs
  type: list
  elements: str
  sample: ["/etc/psflip/app.toml", "/srv/app/current"]
reason:
  description: What could not be put back, and why.
  returned: when something could not be put back
  type: str
generation:
  description: The generation that serves.
  returned: when the service runs
  type: int
  sample: 7
upgrade_result:
  description: How the upgrade of O(upgrade) has ended, in psflip's words.
  returned: if psflip has a record of it
  type: str
  sample: rolled_back
'''

import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.psflip.service.plugins.module_utils import psflip as common


def put_config_back(module, psflip, path):
    """Returns whether the configuration was put back, and why it could not be."""
    running = psflip.running_config()
    if running is None:
        return False, 'psflip does not have the text of the running configuration'
    if common.read(path) == running:
        return False, None
    if not module.check_mode:
        handle, new = tempfile.mkstemp(dir=module.tmpdir)
        with os.fdopen(handle, 'wb') as opened:
            opened.write(running.encode('utf-8'))
        # It keeps owner and mode of the file that it replaces.
        module.atomic_move(new, path)
    return True, None


def repoint(module, current, status):
    """Returns whether the symlink was repointed, and why it could not be."""
    if not os.path.islink(current):
        return False, None
    releases = os.path.join(os.path.realpath(os.path.dirname(current)), 'releases', '')
    running = [one['path'][len(releases):].split(os.sep)[0]
               for one in status.get('files') or [] if one['path'].startswith(releases)]
    if not running:
        return False, 'the running generation was not started from %s' % releases
    if os.path.realpath(current) == os.path.realpath(releases + running[0]):
        return False, None
    if not module.check_mode:
        new = '%s.%d' % (current, os.getpid())
        os.symlink(os.path.join('releases', running[0]), new)
        os.rename(new, current)
    return True, None


def main():
    module = AnsibleModule(
        argument_spec=dict(
            common.ARGUMENTS,
            current=dict(type='path'),
            upgrade=dict(type='int'),
            settled_within=dict(type='int', default=30),
        ),
        mutually_exclusive=common.EXCLUSIVE,
        required_one_of=common.ONE_OF,
        supports_check_mode=True,
    )
    psflip = common.Psflip(module)
    params = module.params
    status, why = psflip.status()
    if status is None:
        module.exit_json(changed=False, restored=[], reason=why)
    status = psflip.at_rest(params['settled_within'])
    result = dict(restored=[], generation=status['generation'])
    ended = common.result_of_upgrade(status, params['upgrade'])
    if ended:
        result['upgrade_result'] = ended
    path = (status.get('config') or {}).get('path')
    done = []
    if path:
        done.append((path,) + put_config_back(module, psflip, path))
    if params['current']:
        done.append((params['current'],) + repoint(module, params['current'], status))
    result['restored'] = [what for what, changed, dummy in done if changed]
    reasons = ['%s: %s' % (what, reason) for what, dummy, reason in done if reason]
    if reasons:
        result['reason'] = '; '.join(reasons)
    module.exit_json(changed=bool(result['restored']), **result)


if __name__ == '__main__':
    main()
