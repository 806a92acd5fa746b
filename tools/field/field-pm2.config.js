// pm2's file for `cargo xtask field`: two workers, each replaced when its successor has reported that it is ready.
'use strict';
module.exports = {
  apps: [{
    name: 'app',
    script: 'field-pm2.js',
    exec_mode: 'cluster',
    instances: 2,
    wait_ready: true,
    listen_timeout: 10000,
    kill_timeout: 5000,
  }],
};
