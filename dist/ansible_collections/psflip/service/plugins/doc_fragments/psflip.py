# Copyright: the psflip developers
# SPDX-License-Identifier: MIT OR Apache-2.0

from __future__ import (absolute_import, division, print_function)
__metaclass__ = type


class ModuleDocFragment(object):

    # Options of every module that talks to one service.
    DOCUMENTATION = r'''
options:
  name:
    description:
      - The instance of the systemd unit C(psflip@NAME), whose configuration is C(/etc/psflip/NAME.toml).
      - One of O(name), O(config) and O(socket) is needed.
    type: str
  config:
    description:
      - The configuration file of the service. psflip finds the running service by it.
    type: path
  socket:
    description:
      - The control socket of the service, if it was started with flags instead of a file.
    type: path
  executable:
    description:
      - The program C(psflip), by its name in C(PATH) or by its path.
    type: str
    default: psflip
requirements:
  - psflip 0.1.0 or later on the host
notes:
  - The modules run C(psflip) on the host and read its JSON output; they do not speak its control protocol themselves.
  - psflip answers the user of the service and root, so the task has to run as one of them.
'''
