# Copyright: the psflip developers
# SPDX-License-Identifier: MIT OR Apache-2.0

"""What the modules have in common: they run psflip on the host and read its JSON."""

from __future__ import (absolute_import, division, print_function)
__metaclass__ = type

import json
import os
import time

# Which service.
ARGUMENTS = dict(
    name=dict(type='str'),
    config=dict(type='path'),
    socket=dict(type='path'),
    executable=dict(type='str', default='psflip'),
)
EXCLUSIVE = [('name', 'config', 'socket')]
ONE_OF = [('name', 'config', 'socket')]

# Between two looks at a service that is not ready yet, in seconds.
PAUSE = 0.2


class Psflip(object):
    """One service."""

    def __init__(self, module):
        self.module = module
        given = module.params['executable']
        self.program = given if os.sep in given else module.get_bin_path(given)
        if module.params['socket']:
            self.where = ['--socket', module.params['socket']]
        else:
            self.where = ['-c', module.params['config'] or '/etc/psflip/%s.toml' % module.params['name']]

    def missing(self):
        """Why psflip can't be run, or None."""
        if self.program and os.access(self.program, os.X_OK):
            return None
        return 'psflip is not installed as `%s`: install it, or set `executable`' % self.module.params['executable']

    def run(self, subcommand, *args):
        """Runs a subcommand for this service. Returns exit code, output and errors."""
        return self.module.run_command([self.program, subcommand] + self.where + list(args))

    def check(self, config):
        """Why psflip refuses this configuration file, or None; and its warnings."""
        code, dummy, errors = self.module.run_command([self.program, 'check', '-c', config])
        return (None, errors.strip()) if code == 0 else (errors.strip() or 'psflip check: exit code %d' % code, '')

    def status(self):
        """The status, or None if psflip does not run; and then the sentence that says why."""
        if self.missing():
            return None, self.missing()
        code, output, errors = self.run('status', '--json')
        try:
            status = json.loads(output)
        except ValueError:
            status = {}
        if code == 0 and status:
            return status, None
        if status.get('state') == 'down':
            return None, describe_exit(status['last_exit'], errors)
        return None, errors.strip() or 'psflip status: exit code %d' % code

    def need_status(self):
        """The status of a service that runs."""
        status, why = self.status()
        if status is None:
            self.module.fail_json(msg=why)
        return status

    def at_rest(self, timeout):
        """Waits until no upgrade is under way and nothing bakes: only then the status compares with what is going
        to stay. Returns the status."""
        deadline = time.time() + timeout
        while True:
            status = self.need_status()
            if status.get('state') == 'serving' and status.get('bake_left_ms') is None:
                return status
            if time.time() > deadline:
                self.module.fail_json(msg='after %d s (`settled_within`) the service still is not at rest: %s' % (
                    timeout, describe(status)))
            time.sleep(PAUSE)

    def running_config(self):
        """The configuration file as the running generation read it; None if psflip can't tell."""
        code, output, dummy = self.run('status', '--running-config')
        return output if code == 0 else None


def result_of_upgrade(status, number):
    """How this upgrade has ended; None if it has not, or is too long ago."""
    records = [one for one in status.get('history') or [] if number is not None and one.get('upgrade') == number]
    return records[-1].get('result') if records else None


def describe(status):
    """What a service does, for an error."""
    if status.get('bake_left_ms') is not None:
        return 'generation %s bakes for another %d s' % (
            (status.get('upgrade') or {}).get('to'), status['bake_left_ms'] // 1000)
    return 'its state is `%s`' % status.get('state')


def describe_exit(last_exit, errors):
    """How the service went down, and its last lines."""
    parts = [errors.strip()]
    if last_exit.get('reason'):
        parts.append('it went down: %s' % last_exit['reason'])
    if last_exit.get('output'):
        parts.append('its last lines: %s' % last_exit['output'].strip())
    return '; '.join(part for part in parts if part)


def what_changed(status, running_config=None):
    """What is on disk that the running generation was not started from: a list of sentences."""
    found = []
    config = status.get('config')
    if config and is_unlike(config) and not (config['changed'] and same_text(config['path'], running_config)):
        found.append('the configuration ' + shown(config))
    program = status.get('program')
    if program and is_unlike(program):
        found.append('psflip itself, ' + shown(program))
    found += [shown(one) for one in status.get('files') or [] if is_unlike(one)]
    return found


def is_unlike(source):
    """Whether a file is another one than that which was used, as far as is known."""
    return source['changed'] is not False


def shown(source):
    """The path of a file, for `changed_files`."""
    unknown = ' (not known whether it has changed: its file system does not answer)'
    return source['path'] + (unknown if source['changed'] is None else '')


def same_text(path, running_config):
    """Whether a file was only written again, or put back."""
    return running_config is not None and read(path) == running_config


def read(path):
    """The text of a file; None if it can't be read."""
    try:
        with open(path, 'rb') as opened:
            return opened.read().decode('utf-8', 'replace')
    except (IOError, OSError):
        return None
