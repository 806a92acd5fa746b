#!/usr/bin/python
# Copyright: the psflip developers
# SPDX-License-Identifier: MIT OR Apache-2.0

from __future__ import (absolute_import, division, print_function)
__metaclass__ = type

DOCUMENTATION = r'''
---
module: psflip_upgrade
short_description: Upgrade a service that runs under psflip
version_added: 0.1.0
description:
  - Runs C(psflip upgrade) if something is new on the host, and waits for the result. The new version has to prove that
    it is healthy; if it does not, the old one keeps serving and the task fails with psflip's reason.
  - If the result is not known, because O(timeout) expired or C(psflip upgrade) was interrupted, the task fails and
    says so. The upgrade goes on, so look at the service before you change its files.
  - Something is new if the configuration file, psflip itself, the child's program, its working directory, a file of
    code among its arguments (for example C(python3 app.py)) or a file of C(env_file) differs from what the running
    generation was started from. A symlink such as C(current) that leads to another release counts.
  - Other files, such as libraries and modules that the program loads, are not seen. Deploy each release into a
    directory of its own, or set O(force).
  - If another upgrade is under way, or a generation bakes, the module waits for its end before it compares.
extends_documentation_fragment:
  - psflip.service.psflip
options:
  wait:
    description:
      - What to wait for.
      - V(traffic) is until the new generation has the traffic; it may bake (C(upgrade.bake)), which can be rolled back.
      - V(baked) and V(promoted) are the same, until its bake is over, if it has one.
      - V(drained) is until the old generation has exited, too.
    type: str
    choices: [traffic, baked, promoted, drained]
    default: baked
  force:
    description:
      - Upgrade although nothing is new, for example because a library or a secret has changed that psflip does not know.
    type: bool
    default: false
  strict:
    description:
      - As O(wait=drained), and fail if a process of the old generation had to be killed, or C(hooks.promoted) failed.
    type: bool
    default: false
  keep:
    description:
      - If a generation bakes, end its bake first, so that it becomes the service. Without this the module waits.
    type: bool
    default: false
  end_draining:
    description:
      - Kill an old generation that still drains instead of waiting for it. Its clients lose their connections.
    type: bool
    default: false
  timeout:
    description:
      - How long to wait for the result, as psflip writes durations (V(90s), V(5m)). The upgrade itself goes on after it.
      - By default only C(upgrade.timeout) of the configuration limits the upgrade.
    type: str
  settled_within:
    description:
      - How many seconds to wait for the end of another upgrade, or of its bake, before comparing.
    type: int
    default: 600
  validate:
    description:
      - Run C(psflip check) on the configuration first, so that an invalid one fails before anything is started.
    type: bool
    default: true
  candidate:
    description:
      - The text of a configuration that an earlier task would have written. In check mode it takes the place of the
        file, which is still the old one. It is neither logged nor in the difference, since the task that would have
        written it shows that.
    type: str
attributes:
  check_mode:
    description: Runs C(psflip check) and reports what would change; requests no upgrade.
    support: full
  diff_mode:
    description: Shows the configuration of the running generation and the file's, and other files that have changed.
      It may contain secrets that are in the configuration.
    support: full
seealso:
  - module: psflip.service.psflip_rollback
  - module: psflip.service.psflip_info
author:
  - The psflip developers (@psflip)
'''

EXAMPLES = r'''
- name: Upgrade the service of the unit psflip@app if something is new
  psflip.service.psflip_upgrade:
    name: app

- name: Upgrade, and go on as soon as the new version has the traffic on trial
  psflip.service.psflip_upgrade:
    name: app
    wait: traffic
  register: upgraded

- name: Upgrade in any case, and accept no process that had to be killed
  psflip.service.psflip_upgrade:
    config: /srv/app/psflip.toml
    force: true
    strict: true
    timeout: 5m
'''

RETURN = r'''
changed_files:
  description: What is new on the host, as sentences or paths.
  returned: always
  type: list
  elements: str
  sample: ["the configuration /etc/psflip/app.toml"]
generation_before:
  description: The generation that served before.
  returned: always
  type: int
  sample: 7
generation:
  description: The generation that serves afterwards. While it bakes, it has the traffic on trial.
  returned: always
  type: int
  sample: 8
upgrade:
  description: The number of the upgrade.
  returned: when psflip accepted the request
  type: int
  sample: 8
duration:
  description: Seconds from the start of the upgrade until the new generation had the traffic, or until the failure.
  returned: when an upgrade was requested
  type: float
  sample: 0.173
baking:
  description: Whether the new generation is on trial now.
  returned: when an upgrade was requested
  type: bool
bake:
  description: How many seconds the trial takes.
  returned: when the new generation bakes, or has baked
  type: float
  sample: 120.0
clients_waited:
  description: How many seconds clients waited because no child ran (C(overlap = false)).
  returned: with C(overlap = false)
  type: float
rolled_back:
  description: Whether the new generation had the traffic and lost it again.
  returned: when an upgrade was requested
  type: bool
reason:
  description: Why the upgrade failed, in psflip's words.
  returned: on failure
  type: str
  sample: "the child exited before it was healthy: exit code 3"
output:
  description: The last lines of the new child's standard error, from the file or the journal that it leads to.
  returned: on failure, if they are known
  type: str
warnings_of_psflip:
  description: What psflip warns of, such as a configuration that is likely to cause an outage.
  returned: when an upgrade was requested
  type: list
  elements: str
exit_code:
  description: The exit code of C(psflip upgrade). If a signal has ended it, that is 128 and the signal's number.
  returned: when an upgrade was requested
  type: int
'''

import json
import os
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.psflip.service.plugins.module_utils import psflip as common

# How many lines of the journal are shown of a child that failed.
LINES = '20'

# Exit codes of `psflip upgrade`. After its own time-out, and when a signal has ended it, the outcome is not known.
FAILED = 1
ROLLED_BACK = 3
NOT_CLEAN = 4
TIMED_OUT = 124
SIGNAL = 128


def is_unknown(code):
    """Whether the upgrade may go on."""
    return code == TIMED_OUT or code > SIGNAL


def command(module):
    """The arguments of `psflip upgrade`."""
    params = module.params
    arguments = ['--progress', 'json']
    arguments += ['--strict'] if params['strict'] else ['--wait', params['wait']]
    for name in ('keep', 'end_draining'):
        if params[name]:
            arguments.append('--' + name.replace('_', '-'))
    if params['timeout']:
        arguments += ['--timeout', params['timeout']]
    return arguments


def events_of(output):
    """psflip's events; lines of a later version that are no JSON are left out."""
    events = []
    for line in output.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            pass
    return events


def result_of(events, result):
    """Adds to the result what the events tell."""
    result.update(baking=False, rolled_back=False, warnings_of_psflip=[])
    for event in events:
        kind = event.get('event')
        if 'upgrade' in event:
            result['upgrade'] = event['upgrade']
        if kind == 'step' and event.get('child'):
            result['child'] = event['child']
        elif kind == 'warning':
            result['warnings_of_psflip'].append(event['text'])
        elif kind == 'baking':
            result.update(baking=True, generation=event['generation'], bake=event['bake_ms'] / 1000.0)
        elif kind == 'promoted':
            result.update(baking=False, generation=event['generation'], duration=event['took_ms'] / 1000.0)
        elif kind == 'failed':
            result.update(baking=False, generation=result['generation_before'], reason=event['reason'],
                          rolled_back=bool(event.get('rolled_back')))
            if event.get('output'):
                result['output'] = event['output']
        elif kind == 'hook' and event.get('result') == 'failed':
            result['reason'] = '`hooks.promoted` failed: %s' % event['reason']
        elif kind == 'drained' and event.get('killed'):
            result.setdefault('reason', 'processes of the old generation had to be killed')
        if event.get('waited_ms') is not None:
            result['clients_waited'] = event['waited_ms'] / 1000.0
    return result


def last_lines(module, child, since):
    """What the journal has of a child."""
    journalctl = module.get_bin_path('journalctl')
    if not child or not journalctl:
        return None
    arguments = ['--quiet', '--no-pager', '--output=cat', '--lines', LINES, '--since', '@%d' % since]
    code, output, dummy = module.run_command([journalctl] + arguments + ['_PID=%d' % child])
    return output.strip() if code == 0 and output.strip() else None


def sentence(code, result, errors):
    """Why the task fails, in psflip's words."""
    reason = result.get('reason') or errors.strip()
    if is_unknown(code):
        return 'the outcome of the upgrade is not known, and it goes on: %s' % (reason or 'exit code %d' % code)
    if code == NOT_CLEAN:
        return 'generation %s is active, but: %s' % (result['generation'], reason)
    if 'upgrade' not in result:
        return reason or 'psflip upgrade: exit code %d' % code
    what = 'was rolled back' if code == ROLLED_BACK or result['rolled_back'] else 'failed'
    keeps = '; the old version keeps serving' if code in (FAILED, ROLLED_BACK) else ''
    return 'upgrade %s %s%s: %s' % (result['upgrade'], what, keeps, reason or 'exit code %d' % code)


def upgrade(module, psflip, result):
    """Requests the upgrade and waits for it. Ends the module."""
    began = time.time()
    code, output, errors = psflip.run('upgrade', *command(module))
    if code < 0:
        # Python has a negative number for a signal, and a shell one above 128.
        code = SIGNAL - code
    result['exit_code'] = code
    result_of(events_of(output), result)
    result.setdefault('duration', round(time.time() - began, 3))
    child = result.pop('child', None)
    if code == 0:
        module.exit_json(changed=True, **result)
    if 'output' not in result:
        lines = last_lines(module, child, began - 1)
        if lines:
            result['output'] = lines
    module.fail_json(msg=sentence(code, result, errors), changed=code in (ROLLED_BACK, NOT_CLEAN) or is_unknown(code), **result)


def validate(module, psflip, path):
    """Fails with psflip's errors if the configuration is invalid, and passes its warnings on."""
    if not path or not module.params['validate']:
        return
    candidate = module.params['candidate'] if module.check_mode else None
    if candidate is not None:
        handle, path = tempfile.mkstemp(suffix='.toml', dir=module.tmpdir)
        with os.fdopen(handle, 'wb') as opened:
            opened.write(candidate.encode('utf-8'))
    refused, warnings = psflip.check(path)
    if refused:
        module.fail_json(msg='psflip refuses the configuration; nothing was upgraded: %s' % refused)
    if warnings:
        module.warn(warnings)


def difference(path, generation, running, text, changed):
    """What `--diff` shows."""
    shown = []
    if running is not None and text is not None and running != text:
        shown.append(dict(before=running, after=text, before_header='%s (generation %d)' % (path, generation),
                          after_header='%s (next generation)' % path))
    lines = ['changed since generation %d was started: %s' % (generation, one) for one in changed]
    if lines:
        shown.append(dict(prepared='\n'.join(lines) + '\n'))
    return shown


def main():
    module = AnsibleModule(
        argument_spec=dict(
            common.ARGUMENTS,
            wait=dict(type='str', choices=['traffic', 'baked', 'promoted', 'drained'], default='baked'),
            force=dict(type='bool', default=False),
            strict=dict(type='bool', default=False),
            keep=dict(type='bool', default=False),
            end_draining=dict(type='bool', default=False),
            timeout=dict(type='str'),
            settled_within=dict(type='int', default=600),
            validate=dict(type='bool', default=True),
            candidate=dict(type='str', no_log=True),
        ),
        mutually_exclusive=common.EXCLUSIVE,
        required_one_of=common.ONE_OF,
        supports_check_mode=True,
    )
    psflip = common.Psflip(module)
    params = module.params
    keeps = params['keep'] or params['end_draining']
    status = psflip.need_status() if keeps else psflip.at_rest(params['settled_within'])
    path = (status.get('config') or {}).get('path')
    running = psflip.running_config() if path else None
    changed = common.what_changed(status, running)
    text = common.read(path) if path else None
    if module.check_mode and params['candidate'] is not None:
        text = params['candidate']
        if running != text and not any('the configuration' in one for one in changed):
            changed.insert(0, 'the configuration %s' % path)
    generation = status['generation']
    result = dict(changed_files=changed, generation_before=generation, generation=generation)
    if module._diff:
        shown = None if module.check_mode and params['candidate'] is not None else text
        result['diff'] = difference(path, generation, running, shown, changed)
    if not changed and not params['force'] and status.get('bake_left_ms') is None:
        module.exit_json(changed=False, **result)
    validate(module, psflip, path)
    if module.check_mode:
        module.exit_json(changed=True, **result)
    upgrade(module, psflip, result)


if __name__ == '__main__':
    main()
