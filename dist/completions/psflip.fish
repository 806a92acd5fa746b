# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_psflip_global_optspecs
    string join \n c/config= foreground no-anchor h/help V/version
end

function __fish_psflip_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_psflip_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_psflip_using_subcommand
    set -l cmd (__fish_psflip_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c psflip -n "__fish_psflip_needs_command" -s c -l config -d 'The configuration file (TOML)' -r -F
complete -c psflip -n "__fish_psflip_needs_command" -l foreground -d 'Keep this process as the stable parent (the anchor) of all generations: its PID never changes. This is the default unless systemd started psflip and set NOTIFY_SOCKET'
complete -c psflip -n "__fish_psflip_needs_command" -l no-anchor -d 'Run without an anchor: every upgrade changes the PID of the service. For supervisors that follow the PID in the pidfile or MAINPID='
complete -c psflip -n "__fish_psflip_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c psflip -n "__fish_psflip_needs_command" -s V -l version -d 'Print version'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "run" -d 'Start a service and upgrade it on request (the default)'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "check" -d 'Check a configuration and start nothing: print it with all defaults, or every error in it'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "upgrade" -d 'Upgrade a running service, and wait for the result'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "status" -d 'Show the state of a running service and its recent upgrades'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "list" -d 'List all services on this host that this user may ask'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "metrics" -d 'Print the state of a service, or of all, as metrics for Prometheus'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "stop" -d 'Stop a running service, and wait until it has exited'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "rollback" -d 'Give the traffic back to the old generation while the new one bakes, and wait until that is done'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "keep" -d 'End a bake: the new generation becomes the service'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "hold" -d 'Hold the proxy\'s connections: accept none, and let requests wait until `psflip resume`'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "resume" -d 'Let held connections go on'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "reopen" -d 'Open the log files of the child\'s output again, after a rotation'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "watch" -d 'Give a program that replaces its own main process a stable parent, whose PID does not change'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "migrate" -d 'Translate a configuration of the Go version, or how start_server and others start a service'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "rehearse" -d 'Will my app survive its upgrades? Runs them in a sandbox, under load, and explains every lost request'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c psflip -n "__fish_psflip_using_subcommand run" -l watch -d 'Upgrade when these files change, or files in these directories: for development. Ignored are .git, target, node_modules and what .gitignore names' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -s c -l config -d 'The configuration file (TOML) [default: psflip.toml]' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l listen -d 'Open this socket once, for every generation to inherit: tcp://0.0.0.0:8080, unix:///run/app.sock, unixgram:///run/log.sock; keys are those of [[listen]], such as as=stdin or mode=0660' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l proxy -d 'Accept connections here and forward them to the child, which gets a free port as PORT: http://0.0.0.0:8080, http://:8080 (all addresses), tcp://127.0.0.1:5432, fastcgi://127.0.0.1:9000, http+unix:///run/app.sock; keys are those of [[proxy]], such as drain=10s or forward=ADDR' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l pidfile -d 'Write the pid of the active generation to this file' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l control-socket -d 'Path of the control socket, for `psflip upgrade`, `status` and `stop` [default: the pidfile\'s path with .sock appended]' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l workdir -d 'The child\'s working directory' -r -f -a "(__fish_complete_directories)"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l env -d 'Set an environment variable of the child' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l env-file -d 'Set environment variables of the child from the lines NAME=VALUE of this file; with a `?` it may be missing' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l env-dir -d 'Set environment variables of the child from this directory, a file for each, as envdir does' -r -f -a "(__fish_complete_directories)"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l env-remove -d 'Remove an environment variable of the child' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-http -d 'Healthy when a GET request is answered with a status of --healthcheck-status: http://127.0.0.1:8080/up or unix:///run/app.sock:/up; with --proxy the path alone: /up' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-method -d 'The method of --healthcheck-http: GET, HEAD or OPTIONS [default: GET]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-host -d 'The Host header of --healthcheck-http [default: host and port of the URL]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-header -d 'Add a header to the request of --healthcheck-http' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-tcp -d 'Healthy when a TCP connection is accepted; with --proxy the default check, of the address that it forwards to' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-unix -d 'Healthy when a connection to this socket is accepted' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-fcgi -d 'Healthy when a FastCGI request for --healthcheck-script is answered' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-script -d 'The script that --healthcheck-fcgi requests' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-command -d 'Healthy when this line, run by `sh -c`, exits with 0' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-docker -d 'Healthy when the container engine reports that this container is healthy' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-alive -d 'Healthy when the child still runs after this time; without --proxy the default check, with 5s' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-status -d 'Status codes that mean healthy, for http and fcgi: 204 or 200-299 [default: 200-399]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-after -d 'Time from the start of the child to the first probe' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-interval -d 'Time from the end of a probe to the next' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-timeout -d 'Time limit for one probe' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-successes -d 'Successful probes in a row that make a child healthy [default: 1]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-failures -d 'Failed probes in a row after which a bake is rolled back [default: 3]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-settle -d 'How long a healthy child must stay healthy before it is promoted [default: 0s]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l signal -d 'Send the child another signal in place of this one: SIGTERM=SIGQUIT; SIGWINCH=false sends none' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l upgrade-signal -d 'The signal that requests an upgrade [default: SIGHUP]' -r -f -a "SIGHUP\t''
SIGINT\t''
SIGQUIT\t''
SIGTERM\t''
SIGUSR1\t''
SIGUSR2\t''
SIGWINCH\t''
SIGRTMIN+1\t''"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l upgrade-timeout -d 'Time limit from the start of the new child until it is healthy [default: 1m]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l upgrade-bake -d 'How long a new child has the traffic on trial before it is promoted' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l upgrade-precheck -d 'Run this line with `sh -c` before the new child starts; if it fails, the upgrade fails' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l upgrade-draining -d 'How many old generations may drain at the same time, 1 to 7 [default: 1]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l recycle-after -d 'Upgrade without a request when the generation has served for this time' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l recycle-memory -d 'Upgrade without a request when the child and its descendants use more memory than this: 512M' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l recycle-jitter -d 'The random part that is added to --recycle-after and subtracted from --recycle-memory [default: 10%]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l recycle-interval -d 'Time from one look at the memory to the next [default: 1m]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l shutdown-delay -d 'Time from the promotion to the stop signal for the old child [default: 0s]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l shutdown-signal -d 'The signal that stops the child gracefully [default: SIGTERM]' -r -f -a "SIGHUP\t''
SIGINT\t''
SIGQUIT\t''
SIGTERM\t''
SIGUSR1\t''
SIGUSR2\t''
SIGWINCH\t''
SIGRTMIN+1\t''"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l shutdown-timeout -d 'Time from the stop signal to SIGKILL [default: 10s]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l shutdown-orphans -d 'What happens to leftover processes of the child: kill or leave [default: kill]' -r -f -a "kill\t''
leave\t''"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l switch -d 'At promotion, repoint the symlink LINK to TARGET' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l hook-promote -d 'Run this line with `sh -c` before the promotion; if it fails, the upgrade fails' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l hook-promoted -d 'Run this line with `sh -c` after the promotion' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l hook-failed -d 'Run this line with `sh -c` after a failed upgrade' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l hook-rolled-back -d 'Run this line with `sh -c` after an upgrade that was rolled back from its bake' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l hook-timeout -d 'Time limit for each hook [default: 30s]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l stdout -d 'Where the child\'s standard output goes: inherit, null, append:FILE or pipe:COMMAND [default: inherit]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l stderr -d 'Where the child\'s standard error goes, as --stdout [default: inherit]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l output-mode -d 'Permissions of a file that --stdout or --stderr creates: 0640' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l output-owner -d 'Owner of a file that --stdout or --stderr creates' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l output-group -d 'Group of a file that --stdout or --stderr creates' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l log-format -d 'Format of psflip\'s log: auto, text, json or journald [default: auto]' -r -f -a "auto\t''
text\t''
json\t''
journald\t''"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l log-level -d 'Log messages of this level and above: error, warn, info, debug or trace [default: info]' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l log-file -d 'Append psflip\'s log to this file, which may be renamed at any time [default: standard error]' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l foreground -d 'Keep this process as the stable parent (the anchor) of all generations: its PID never changes. This is the default unless systemd started psflip and set NOTIFY_SOCKET'
complete -c psflip -n "__fish_psflip_using_subcommand run" -l no-anchor -d 'Run without an anchor: every upgrade changes the PID of the service. For supervisors that follow the PID in the pidfile or MAINPID='
complete -c psflip -n "__fish_psflip_using_subcommand run" -l no-control-socket -d 'Create no control socket'
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-notify -d 'Healthy when the child reports READY=1 (sd_notify(3))'
complete -c psflip -n "__fish_psflip_using_subcommand run" -l no-overlap -d 'At an upgrade, stop the old child before the new one starts: for an application that can\'t run twice'
complete -c psflip -n "__fish_psflip_using_subcommand run" -l quiet -d 'Log errors only'
complete -c psflip -n "__fish_psflip_using_subcommand run" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand check" -s c -l config -d 'The configuration file (TOML) [default: psflip.toml]' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l listen -d 'Open this socket once, for every generation to inherit: tcp://0.0.0.0:8080, unix:///run/app.sock, unixgram:///run/log.sock; keys are those of [[listen]], such as as=stdin or mode=0660' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l proxy -d 'Accept connections here and forward them to the child, which gets a free port as PORT: http://0.0.0.0:8080, http://:8080 (all addresses), tcp://127.0.0.1:5432, fastcgi://127.0.0.1:9000, http+unix:///run/app.sock; keys are those of [[proxy]], such as drain=10s or forward=ADDR' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l pidfile -d 'Write the pid of the active generation to this file' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l control-socket -d 'Path of the control socket, for `psflip upgrade`, `status` and `stop` [default: the pidfile\'s path with .sock appended]' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l workdir -d 'The child\'s working directory' -r -f -a "(__fish_complete_directories)"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l env -d 'Set an environment variable of the child' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l env-file -d 'Set environment variables of the child from the lines NAME=VALUE of this file; with a `?` it may be missing' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l env-dir -d 'Set environment variables of the child from this directory, a file for each, as envdir does' -r -f -a "(__fish_complete_directories)"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l env-remove -d 'Remove an environment variable of the child' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-http -d 'Healthy when a GET request is answered with a status of --healthcheck-status: http://127.0.0.1:8080/up or unix:///run/app.sock:/up; with --proxy the path alone: /up' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-method -d 'The method of --healthcheck-http: GET, HEAD or OPTIONS [default: GET]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-host -d 'The Host header of --healthcheck-http [default: host and port of the URL]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-header -d 'Add a header to the request of --healthcheck-http' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-tcp -d 'Healthy when a TCP connection is accepted; with --proxy the default check, of the address that it forwards to' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-unix -d 'Healthy when a connection to this socket is accepted' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-fcgi -d 'Healthy when a FastCGI request for --healthcheck-script is answered' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-script -d 'The script that --healthcheck-fcgi requests' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-command -d 'Healthy when this line, run by `sh -c`, exits with 0' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-docker -d 'Healthy when the container engine reports that this container is healthy' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-alive -d 'Healthy when the child still runs after this time; without --proxy the default check, with 5s' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-status -d 'Status codes that mean healthy, for http and fcgi: 204 or 200-299 [default: 200-399]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-after -d 'Time from the start of the child to the first probe' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-interval -d 'Time from the end of a probe to the next' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-timeout -d 'Time limit for one probe' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-successes -d 'Successful probes in a row that make a child healthy [default: 1]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-failures -d 'Failed probes in a row after which a bake is rolled back [default: 3]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-settle -d 'How long a healthy child must stay healthy before it is promoted [default: 0s]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l signal -d 'Send the child another signal in place of this one: SIGTERM=SIGQUIT; SIGWINCH=false sends none' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l upgrade-signal -d 'The signal that requests an upgrade [default: SIGHUP]' -r -f -a "SIGHUP\t''
SIGINT\t''
SIGQUIT\t''
SIGTERM\t''
SIGUSR1\t''
SIGUSR2\t''
SIGWINCH\t''
SIGRTMIN+1\t''"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l upgrade-timeout -d 'Time limit from the start of the new child until it is healthy [default: 1m]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l upgrade-bake -d 'How long a new child has the traffic on trial before it is promoted' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l upgrade-precheck -d 'Run this line with `sh -c` before the new child starts; if it fails, the upgrade fails' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l upgrade-draining -d 'How many old generations may drain at the same time, 1 to 7 [default: 1]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l recycle-after -d 'Upgrade without a request when the generation has served for this time' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l recycle-memory -d 'Upgrade without a request when the child and its descendants use more memory than this: 512M' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l recycle-jitter -d 'The random part that is added to --recycle-after and subtracted from --recycle-memory [default: 10%]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l recycle-interval -d 'Time from one look at the memory to the next [default: 1m]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l shutdown-delay -d 'Time from the promotion to the stop signal for the old child [default: 0s]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l shutdown-signal -d 'The signal that stops the child gracefully [default: SIGTERM]' -r -f -a "SIGHUP\t''
SIGINT\t''
SIGQUIT\t''
SIGTERM\t''
SIGUSR1\t''
SIGUSR2\t''
SIGWINCH\t''
SIGRTMIN+1\t''"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l shutdown-timeout -d 'Time from the stop signal to SIGKILL [default: 10s]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l shutdown-orphans -d 'What happens to leftover processes of the child: kill or leave [default: kill]' -r -f -a "kill\t''
leave\t''"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l switch -d 'At promotion, repoint the symlink LINK to TARGET' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l hook-promote -d 'Run this line with `sh -c` before the promotion; if it fails, the upgrade fails' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l hook-promoted -d 'Run this line with `sh -c` after the promotion' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l hook-failed -d 'Run this line with `sh -c` after a failed upgrade' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l hook-rolled-back -d 'Run this line with `sh -c` after an upgrade that was rolled back from its bake' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l hook-timeout -d 'Time limit for each hook [default: 30s]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l stdout -d 'Where the child\'s standard output goes: inherit, null, append:FILE or pipe:COMMAND [default: inherit]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l stderr -d 'Where the child\'s standard error goes, as --stdout [default: inherit]' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l output-mode -d 'Permissions of a file that --stdout or --stderr creates: 0640' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l output-owner -d 'Owner of a file that --stdout or --stderr creates' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l output-group -d 'Group of a file that --stdout or --stderr creates' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l log-format -d 'Format of psflip\'s log: auto, text, json or journald [default: auto]' -r -f -a "auto\t''
text\t''
json\t''
journald\t''"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l log-level -d 'Log messages of this level and above: error, warn, info, debug or trace [default: info]' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l log-file -d 'Append psflip\'s log to this file, which may be renamed at any time [default: standard error]' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l foreground -d 'Keep this process as the stable parent (the anchor) of all generations: its PID never changes. This is the default unless systemd started psflip and set NOTIFY_SOCKET'
complete -c psflip -n "__fish_psflip_using_subcommand check" -l no-anchor -d 'Run without an anchor: every upgrade changes the PID of the service. For supervisors that follow the PID in the pidfile or MAINPID='
complete -c psflip -n "__fish_psflip_using_subcommand check" -l strict -d 'Exit with status 1 if there is a warning'
complete -c psflip -n "__fish_psflip_using_subcommand check" -l no-control-socket -d 'Create no control socket'
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-notify -d 'Healthy when the child reports READY=1 (sd_notify(3))'
complete -c psflip -n "__fish_psflip_using_subcommand check" -l no-overlap -d 'At an upgrade, stop the old child before the new one starts: for an application that can\'t run twice'
complete -c psflip -n "__fish_psflip_using_subcommand check" -l quiet -d 'Log errors only'
complete -c psflip -n "__fish_psflip_using_subcommand check" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -s c -l config -d 'The configuration that the service was started with: it says where the control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l socket -d 'The path of the control socket, instead of a configuration' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l user -d 'With --all or PATTERN: the services of another user (name or ID), for root' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l wait -d 'What to wait for [default: traffic; baked, with several services]' -r -f -a "traffic\t'The new generation has the traffic: it is active, or bakes (`upgrade.bake`)'
baked\t'The new generation is active: its bake is over, if there is one'
drained\t'The old generation has exited, too'"
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l timeout -d 'Stop waiting after this time, such as `90s` or `5m`; the upgrade goes on. With several services, it is for each' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l progress -d 'How to show the progress' -r -f -a "auto\t'On a terminal one line that is overwritten, else a line for each step; the results only, with several services'
plain\t'A line for each step'
json\t'Events as JSON, one object per line (see docs/control.md)'"
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l all -d 'Upgrade all services of this user, one after the other'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l dry-run -d 'With --all or PATTERN: print the names of the services, and upgrade none'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l keep -d 'If a new generation bakes, end its bake first: it becomes the service. Not with --all or wildcards'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l end-draining -d 'Kill an old generation that still drains, instead of waiting for it: its child gets SIGKILL'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l no-wait -d 'Request the upgrade and return at once'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l strict -d 'As `--wait drained`, and until `hooks.promoted` has exited; exit with 4 if a process of the old generation had to be killed, or the hook failed'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -s q -l quiet -d 'Print warnings and failures only'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l json -d 'The same as `--progress json`'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c psflip -n "__fish_psflip_using_subcommand status" -s c -l config -d 'The configuration that the service was started with: it says where the control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand status" -l socket -d 'The path of the control socket, instead of a configuration' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand status" -l last -d 'How many recent upgrades to show; psflip keeps the last 16' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand status" -l timeline -d 'Draw the recent upgrades as an SVG picture into this file (`-`: standard output)' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand status" -l timeout -d 'Stop waiting for an answer after this time; with --watch, for the first one' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand status" -l json -d 'Print the status as one JSON object (see docs/control.md); with --watch, one object per line'
complete -c psflip -n "__fish_psflip_using_subcommand status" -l watch -d 'Keep running and show every change, until Ctrl-C'
complete -c psflip -n "__fish_psflip_using_subcommand status" -l check -d 'Print one line, and exit with 1 until a child was found healthy and after a stop request: for probes of containers'
complete -c psflip -n "__fish_psflip_using_subcommand status" -l running-config -d 'Print the configuration file as the active generation read it, and nothing else'
complete -c psflip -n "__fish_psflip_using_subcommand status" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand list" -l timeout -d 'How long the psflips may take to answer' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand list" -l json -d 'Print a JSON array: for each service its socket, and the status object of `psflip status --json`'
complete -c psflip -n "__fish_psflip_using_subcommand list" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand metrics" -s c -l config -d 'The configuration that the service was started with: it says where the control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand metrics" -l socket -d 'The path of the control socket, instead of a configuration' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand metrics" -l listen -d 'Serve the metrics by HTTP at this address, such as 127.0.0.1:9945, until a signal stops it' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand metrics" -l timeout -d 'How long the psflips may take to answer' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand metrics" -l all -d 'All services that this user may ask, as `psflip list` finds them'
complete -c psflip -n "__fish_psflip_using_subcommand metrics" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand stop" -s c -l config -d 'The configuration that the service was started with: it says where the control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand stop" -l socket -d 'The path of the control socket, instead of a configuration' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand stop" -l timeout -d 'Stop waiting after this time, such as `90s` or `5m`' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand stop" -l no-wait -d 'Request the stop and return at once'
complete -c psflip -n "__fish_psflip_using_subcommand stop" -l json -d 'Print events as JSON, one object per line (see docs/control.md)'
complete -c psflip -n "__fish_psflip_using_subcommand stop" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand rollback" -s c -l config -d 'The configuration that the service was started with: it says where the control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand rollback" -l socket -d 'The path of the control socket, instead of a configuration' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand rollback" -l timeout -d 'Stop waiting after this time; what was requested goes on' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rollback" -l json -d 'Print events as JSON, one object per line (see docs/control.md)'
complete -c psflip -n "__fish_psflip_using_subcommand rollback" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand keep" -s c -l config -d 'The configuration that the service was started with: it says where the control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand keep" -l socket -d 'The path of the control socket, instead of a configuration' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand keep" -l timeout -d 'Stop waiting after this time; what was requested goes on' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand keep" -l json -d 'Print events as JSON, one object per line (see docs/control.md)'
complete -c psflip -n "__fish_psflip_using_subcommand keep" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand hold" -l max -d 'The longest that a request may wait, such as `30s` or `2m`. Then it is answered with 503' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand hold" -s c -l config -d 'The configuration that the service was started with: it says where the control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand hold" -l socket -d 'The path of the control socket, instead of a configuration' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand hold" -l timeout -d 'Stop waiting for an answer after this time' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand hold" -l json -d 'Print the answer as one JSON object (see docs/control.md)'
complete -c psflip -n "__fish_psflip_using_subcommand hold" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand resume" -s c -l config -d 'The configuration that the service was started with: it says where the control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand resume" -l socket -d 'The path of the control socket, instead of a configuration' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand resume" -l timeout -d 'Stop waiting for an answer after this time' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand resume" -l json -d 'Print the answer as one JSON object (see docs/control.md)'
complete -c psflip -n "__fish_psflip_using_subcommand resume" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand reopen" -s c -l config -d 'The configuration that the service was started with: it says where the control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand reopen" -l socket -d 'The path of the control socket, instead of a configuration' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand reopen" -l timeout -d 'Stop waiting after this time' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand reopen" -l json -d 'Print the results as JSON, one object per line (see docs/control.md)'
complete -c psflip -n "__fish_psflip_using_subcommand reopen" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand watch" -l pidfile -d 'The file to which the service writes its pid' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand watch" -l patience -d 'When the service exits: wait this long for another process to become the service, if FILE still exists or an earlier service process still runs' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand watch" -l grace -d 'When the service has stopped: wait this long for leftover processes of COMMAND to exit, then kill them' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand watch" -s q -l quiet -d 'Log errors only'
complete -c psflip -n "__fish_psflip_using_subcommand watch" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and not __fish_seen_subcommand_from start_server spawn-fcgi supervisord runit procfile" -s o -l output -d 'Where to write the result (default: standard output)' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and not __fish_seen_subcommand_from start_server spawn-fcgi supervisord runit procfile" -l format -d 'The format of FILE (default: detected from its name, or else from its text)' -r -f -a "yaml\t''
json\t''
toml\t''"
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and not __fish_seen_subcommand_from start_server spawn-fcgi supervisord runit procfile" -l force -d 'Overwrite the output if it exists'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and not __fish_seen_subcommand_from start_server spawn-fcgi supervisord runit procfile" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and not __fish_seen_subcommand_from start_server spawn-fcgi supervisord runit procfile" -a "start_server" -d 'Translate a command line of start_server (Perl\'s Server::Starter)'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and not __fish_seen_subcommand_from start_server spawn-fcgi supervisord runit procfile" -a "spawn-fcgi" -d 'Translate a command line of spawn-fcgi'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and not __fish_seen_subcommand_from start_server spawn-fcgi supervisord runit procfile" -a "supervisord" -d 'Translate a program of a configuration of supervisord'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and not __fish_seen_subcommand_from start_server spawn-fcgi supervisord runit procfile" -a "runit" -d 'Translate a `run` script of runit, daemontools or s6'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and not __fish_seen_subcommand_from start_server spawn-fcgi supervisord runit procfile" -a "procfile" -d 'Translate a line of a Procfile'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and __fish_seen_subcommand_from start_server" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and __fish_seen_subcommand_from spawn-fcgi" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and __fish_seen_subcommand_from supervisord" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and __fish_seen_subcommand_from runit" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand migrate; and __fish_seen_subcommand_from procfile" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -s c -l config -d 'The configuration file of psflip (TOML)' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l load -d 'What to request; may be repeated. Default: the first `[[proxy]]`, or else what the health check requests. With kinds: stream=http://127.0.0.1:8000/events, new+post=http://:8080/' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l kinds -d 'The kinds of requests of all http loads' -r -f -a "new\t'A connection for each request'
keep-alive\t'One request after the other on a keep-alive connection'
post\t'A POST with a body, on a keep-alive connection'
post-half\t'A POST whose body arrives in two halves, 100 ms apart, on a new connection'
stream\t'An answer that takes long (events, a download), which must arrive completely'
websocket\t'A WebSocket, with a ping every 50 ms'"
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l header -d 'A header of every request, such as \'Authorization: Bearer ...\'; may be repeated. Host and Content-Type replace those of the load; for FastCGI it is a parameter HTTP_...' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l body -d 'The body of the kinds post and post-half, up to 1 MiB [default: 2 KiB]. Its type: --header \'Content-Type: ...\'' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l clients -d 'How many clients send requests at the same time' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l rate -d 'Requests a second, of all clients together; without it each client sends its next request at once' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l flips -d 'How many upgrades' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l bad -d 'Bad versions, one in turn after each upgrade: each must be refused, and cost no request' -r -f -a "crash\t'The program exits with code 3 at once'
hang\t'The program starts, and never does anything'
missing\t'The program does not exist'
broken\t'The configuration is no valid TOML'
dies-later\t'The program becomes healthy, and is killed a second later: needs `upgrade.bake`'"
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l next -d 'Another configuration file: every other upgrade goes to it, and the next one back' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l beside -d 'A command (for `sh -c`) that runs along, such as a web server in front' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l pass -d 'An address outside that the service needs, such as a database: 127.0.0.1:5432' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l net -d 'The network of the sandbox' -r -f -a "own\t'Its own: the same ports as the real service, and nothing outside but --pass'
host\t'The host\'s: addresses outside can be reached, and ports are shared with the real service. Unix sockets in the file system stay hidden'"
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l during -d 'Rehearse any other tool instead of psflip: a command (for `sh -c`) that upgrades the service, such as \'systemctl reload app\'. With --service in a sandbox, otherwise on this host' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l service -d 'With --during: the command (for `sh -c`) that starts the service. SERVICE_PID is its pid in --during' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l pause -d 'How long the load goes on after each upgrade, before the next one. An upgrade of psflip is over when the old child is gone, one of --during when the command has exited' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l timeout -d 'Fail if a request makes no progress for this time' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l start-timeout -d 'How long the service may take to start' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l accept -d 'Status codes of good answers' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l max-lost -d 'How many requests may be lost' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l max-keep-alive-lost -d 'How many requests on reused keep-alive connections may be lost on top of these. Many servers close idle connections as they stop; clients that repeat such a request don\'t mind' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l max-flip -d 'How long an upgrade may take, from the request until the new version has the traffic' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l max-p99 -d 'The longest time that 99 % of the requests during an upgrade may take' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l out -d 'Write report.json, junit.xml, report.html and log.txt to this directory' -r -f -a "(__fish_complete_directories)"
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l psflip -d 'The psflip to run [default: the one beside this program, or in PATH]' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l json -d 'Print the report as JSON'
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -l no-sandbox -d 'Run on this host, without a sandbox: same ports and files as the real service, which must not run'
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -s V -l version -d 'Print version'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "run" -d 'Start a service and upgrade it on request (the default)'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "check" -d 'Check a configuration and start nothing: print it with all defaults, or every error in it'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "upgrade" -d 'Upgrade a running service, and wait for the result'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "status" -d 'Show the state of a running service and its recent upgrades'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "list" -d 'List all services on this host that this user may ask'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "metrics" -d 'Print the state of a service, or of all, as metrics for Prometheus'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "stop" -d 'Stop a running service, and wait until it has exited'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "rollback" -d 'Give the traffic back to the old generation while the new one bakes, and wait until that is done'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "keep" -d 'End a bake: the new generation becomes the service'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "hold" -d 'Hold the proxy\'s connections: accept none, and let requests wait until `psflip resume`'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "resume" -d 'Let held connections go on'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "reopen" -d 'Open the log files of the child\'s output again, after a rotation'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "watch" -d 'Give a program that replaces its own main process a stable parent, whose PID does not change'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "migrate" -d 'Translate a configuration of the Go version, or how start_server and others start a service'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "rehearse" -d 'Will my app survive its upgrades? Runs them in a sandbox, under load, and explains every lost request'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c psflip -n "__fish_psflip_using_subcommand help; and __fish_seen_subcommand_from migrate" -f -a "start_server" -d 'Translate a command line of start_server (Perl\'s Server::Starter)'
complete -c psflip -n "__fish_psflip_using_subcommand help; and __fish_seen_subcommand_from migrate" -f -a "spawn-fcgi" -d 'Translate a command line of spawn-fcgi'
complete -c psflip -n "__fish_psflip_using_subcommand help; and __fish_seen_subcommand_from migrate" -f -a "supervisord" -d 'Translate a program of a configuration of supervisord'
complete -c psflip -n "__fish_psflip_using_subcommand help; and __fish_seen_subcommand_from migrate" -f -a "runit" -d 'Translate a `run` script of runit, daemontools or s6'
complete -c psflip -n "__fish_psflip_using_subcommand help; and __fish_seen_subcommand_from migrate" -f -a "procfile" -d 'Translate a line of a Procfile'

# Behind `--` stands a program, with completions of its own.
function __fish_psflip_program
    set -l tokens (commandline -opc)
    set -l dashes (contains -i -- -- $tokens)
    set -e tokens[1..$dashes]
    complete -C (string join -- ' ' (string escape -- $tokens) (commandline -ct))
end
complete -c psflip -n "__fish_psflip_using_subcommand run; and contains -- -- (commandline -opc)" -f -a "(__fish_psflip_program)"
complete -c psflip -n "__fish_psflip_using_subcommand run" -f
complete -c psflip -n "__fish_psflip_using_subcommand check; and contains -- -- (commandline -opc)" -f -a "(__fish_psflip_program)"
complete -c psflip -n "__fish_psflip_using_subcommand check" -f
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -f
complete -c psflip -n "__fish_psflip_using_subcommand status" -f
complete -c psflip -n "__fish_psflip_using_subcommand list" -f
complete -c psflip -n "__fish_psflip_using_subcommand metrics" -f
complete -c psflip -n "__fish_psflip_using_subcommand stop" -f
complete -c psflip -n "__fish_psflip_using_subcommand rollback" -f
complete -c psflip -n "__fish_psflip_using_subcommand keep" -f
complete -c psflip -n "__fish_psflip_using_subcommand hold" -f
complete -c psflip -n "__fish_psflip_using_subcommand resume" -f
complete -c psflip -n "__fish_psflip_using_subcommand reopen" -f
complete -c psflip -n "__fish_psflip_using_subcommand watch; and contains -- -- (commandline -opc)" -f -a "(__fish_psflip_program)"
complete -c psflip -n "__fish_psflip_using_subcommand watch" -f
complete -c psflip -n "__fish_psflip_using_subcommand rehearse" -f
complete -c psflip -n "__fish_psflip_using_subcommand help" -f
complete -c psflip -n "__fish_psflip_using_subcommand help" -f -a "run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help"
