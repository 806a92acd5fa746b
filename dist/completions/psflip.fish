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

complete -c psflip -n "__fish_psflip_needs_command" -s c -l config -d 'The configuration, TOML' -r -F
complete -c psflip -n "__fish_psflip_needs_command" -l foreground -d 'Always keep this process as the anchor: the stable parent of all generations, whose PID does not change. That is the default unless systemd started psflip and set NOTIFY_SOCKET'
complete -c psflip -n "__fish_psflip_needs_command" -l no-anchor -d 'Never keep an anchor: every upgrade changes the PID of the service. For supervisors that follow it by the pidfile or MAINPID='
complete -c psflip -n "__fish_psflip_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c psflip -n "__fish_psflip_needs_command" -s V -l version -d 'Print version'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "run" -d 'Run the child of a configuration, and upgrade it on request (the default)'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "check" -d 'Print the effective configuration, or every error in it; start nothing'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "upgrade" -d 'Replace the child of a running psflip, and wait until the new one serves'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "status" -d 'Show how a running psflip and its child are, and what happened last'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "stop" -d 'End a running psflip and its child'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "watch" -d 'Keep one steady process above a program that replaces itself and its pidfile'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "migrate" -d 'Translate a configuration of upstream psflip (YAML, JSON or TOML with Go templates)'
complete -c psflip -n "__fish_psflip_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c psflip -n "__fish_psflip_using_subcommand run" -s c -l config -d 'The configuration, TOML [default: psflip.toml]' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l listen -d 'Open this socket for every generation, once: tcp://0.0.0.0:8080, unix:///run/app.sock, unixgram:///run/log.sock; keys as of [[listen]], such as as=stdin or mode=0660' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l pidfile -d 'Write the active generation\'s pid here' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l control-socket -d 'Answer `psflip upgrade`, `status` and `stop` here, instead of beside the pidfile' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l workdir -d 'The child\'s working directory' -r -f -a "(__fish_complete_directories)"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l env -d 'Set a variable of the child' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l env-remove -d 'Remove a variable of the child' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-http -d 'Healthy when a GET is answered: http://127.0.0.1:8080/up or unix:///run/app.sock:/up' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-method -d 'The method of --healthcheck-http: GET, HEAD or OPTIONS; GET' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-host -d 'The header Host of --healthcheck-http; the URL\'s host' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-header -d 'One more header of --healthcheck-http' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-tcp -d 'Healthy when a connection is accepted' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-unix -d 'Healthy when a connection to this socket is accepted' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-fcgi -d 'Healthy when a FastCGI request for --healthcheck-script is answered' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-script -d 'What --healthcheck-fcgi requests' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-command -d 'Healthy when this line, run by `sh -c`, exits with 0' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-docker -d 'Healthy when the container engine reports it' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-alive -d 'Healthy when it still runs after this time; the default, with 5s' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-status -d 'The codes that mean healthy, of http and fcgi: 204 or 200-299' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-after -d 'From the child\'s start to the first probe' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-interval -d 'From the end of a probe to the next' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-timeout -d 'For one probe' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-successes -d 'Successful probes in a row' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l signal -d 'What the child gets in place of a signal: SIGTERM=SIGQUIT, SIGWINCH=false for none' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l upgrade-signal -d 'Asks for an upgrade; SIGHUP' -r -f -a "SIGHUP\t''
SIGINT\t''
SIGQUIT\t''
SIGTERM\t''
SIGUSR1\t''
SIGUSR2\t''
SIGWINCH\t''
SIGRTMIN+1\t''"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l upgrade-timeout -d 'From spawn to healthy; 1m' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l shutdown-delay -d 'From promotion to the signal to the old child; 0s' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l shutdown-signal -d 'Stops the child gracefully; SIGTERM' -r -f -a "SIGHUP\t''
SIGINT\t''
SIGQUIT\t''
SIGTERM\t''
SIGUSR1\t''
SIGUSR2\t''
SIGWINCH\t''
SIGRTMIN+1\t''"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l shutdown-timeout -d 'From that signal to SIGKILL; 10s' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l shutdown-orphans -d 'What happens to the rest of the child\'s process tree: kill or leave; kill' -r -f -a "kill\t''
leave\t''"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l switch -d 'At promotion, point the symbolic link LINK to TARGET' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l hook-promote -d 'Run this line by `sh -c` before promotion; its failure fails the upgrade' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l hook-promoted -d 'Run this line by `sh -c` after promotion' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l hook-failed -d 'Run this line by `sh -c` after an upgrade that failed' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l hook-timeout -d 'How long each hook may take; 30s' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand run" -l log-format -d 'How a line of psflip\'s own looks: auto, text, json or journald; auto' -r -f -a "auto\t''
text\t''
json\t''
journald\t''"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l log-level -d 'error, warn, info, debug or trace; info' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c psflip -n "__fish_psflip_using_subcommand run" -l foreground -d 'Always keep this process as the anchor: the stable parent of all generations, whose PID does not change. That is the default unless systemd started psflip and set NOTIFY_SOCKET'
complete -c psflip -n "__fish_psflip_using_subcommand run" -l no-anchor -d 'Never keep an anchor: every upgrade changes the PID of the service. For supervisors that follow it by the pidfile or MAINPID='
complete -c psflip -n "__fish_psflip_using_subcommand run" -l no-control-socket -d 'Make no control socket'
complete -c psflip -n "__fish_psflip_using_subcommand run" -l healthcheck-notify -d 'Healthy when the child reports READY=1 (sd_notify(3))'
complete -c psflip -n "__fish_psflip_using_subcommand run" -l quiet -d 'No line of psflip\'s own below `error`'
complete -c psflip -n "__fish_psflip_using_subcommand run" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand check" -s c -l config -d 'The configuration, TOML [default: psflip.toml]' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l listen -d 'Open this socket for every generation, once: tcp://0.0.0.0:8080, unix:///run/app.sock, unixgram:///run/log.sock; keys as of [[listen]], such as as=stdin or mode=0660' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l pidfile -d 'Write the active generation\'s pid here' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l control-socket -d 'Answer `psflip upgrade`, `status` and `stop` here, instead of beside the pidfile' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l workdir -d 'The child\'s working directory' -r -f -a "(__fish_complete_directories)"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l env -d 'Set a variable of the child' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l env-remove -d 'Remove a variable of the child' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-http -d 'Healthy when a GET is answered: http://127.0.0.1:8080/up or unix:///run/app.sock:/up' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-method -d 'The method of --healthcheck-http: GET, HEAD or OPTIONS; GET' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-host -d 'The header Host of --healthcheck-http; the URL\'s host' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-header -d 'One more header of --healthcheck-http' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-tcp -d 'Healthy when a connection is accepted' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-unix -d 'Healthy when a connection to this socket is accepted' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-fcgi -d 'Healthy when a FastCGI request for --healthcheck-script is answered' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-script -d 'What --healthcheck-fcgi requests' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-command -d 'Healthy when this line, run by `sh -c`, exits with 0' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-docker -d 'Healthy when the container engine reports it' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-alive -d 'Healthy when it still runs after this time; the default, with 5s' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-status -d 'The codes that mean healthy, of http and fcgi: 204 or 200-299' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-after -d 'From the child\'s start to the first probe' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-interval -d 'From the end of a probe to the next' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-timeout -d 'For one probe' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-successes -d 'Successful probes in a row' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l signal -d 'What the child gets in place of a signal: SIGTERM=SIGQUIT, SIGWINCH=false for none' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l upgrade-signal -d 'Asks for an upgrade; SIGHUP' -r -f -a "SIGHUP\t''
SIGINT\t''
SIGQUIT\t''
SIGTERM\t''
SIGUSR1\t''
SIGUSR2\t''
SIGWINCH\t''
SIGRTMIN+1\t''"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l upgrade-timeout -d 'From spawn to healthy; 1m' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l shutdown-delay -d 'From promotion to the signal to the old child; 0s' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l shutdown-signal -d 'Stops the child gracefully; SIGTERM' -r -f -a "SIGHUP\t''
SIGINT\t''
SIGQUIT\t''
SIGTERM\t''
SIGUSR1\t''
SIGUSR2\t''
SIGWINCH\t''
SIGRTMIN+1\t''"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l shutdown-timeout -d 'From that signal to SIGKILL; 10s' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l shutdown-orphans -d 'What happens to the rest of the child\'s process tree: kill or leave; kill' -r -f -a "kill\t''
leave\t''"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l switch -d 'At promotion, point the symbolic link LINK to TARGET' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l hook-promote -d 'Run this line by `sh -c` before promotion; its failure fails the upgrade' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l hook-promoted -d 'Run this line by `sh -c` after promotion' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l hook-failed -d 'Run this line by `sh -c` after an upgrade that failed' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l hook-timeout -d 'How long each hook may take; 30s' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand check" -l log-format -d 'How a line of psflip\'s own looks: auto, text, json or journald; auto' -r -f -a "auto\t''
text\t''
json\t''
journald\t''"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l log-level -d 'error, warn, info, debug or trace; info' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c psflip -n "__fish_psflip_using_subcommand check" -l foreground -d 'Always keep this process as the anchor: the stable parent of all generations, whose PID does not change. That is the default unless systemd started psflip and set NOTIFY_SOCKET'
complete -c psflip -n "__fish_psflip_using_subcommand check" -l no-anchor -d 'Never keep an anchor: every upgrade changes the PID of the service. For supervisors that follow it by the pidfile or MAINPID='
complete -c psflip -n "__fish_psflip_using_subcommand check" -l strict -d 'Exit with 1 if there is a warning'
complete -c psflip -n "__fish_psflip_using_subcommand check" -l no-control-socket -d 'Make no control socket'
complete -c psflip -n "__fish_psflip_using_subcommand check" -l healthcheck-notify -d 'Healthy when the child reports READY=1 (sd_notify(3))'
complete -c psflip -n "__fish_psflip_using_subcommand check" -l quiet -d 'No line of psflip\'s own below `error`'
complete -c psflip -n "__fish_psflip_using_subcommand check" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -s c -l config -d 'The configuration that psflip was started with, which says where its control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l socket -d 'The control socket itself' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l wait -d 'What to wait for' -r -f -a "promoted\t'The new generation is the service'
drained\t'The old generation is gone, too'"
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l timeout -d 'Wait no longer than this, as `90s` or `5m`; the upgrade goes on' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l no-wait -d 'Only ask; don\'t wait'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -l json -d 'Print what psflip says, one JSON object a line (see docs/control.md)'
complete -c psflip -n "__fish_psflip_using_subcommand upgrade" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c psflip -n "__fish_psflip_using_subcommand status" -s c -l config -d 'The configuration that psflip was started with, which says where its control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand status" -l socket -d 'The control socket itself' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand status" -l last -d 'How many of the last upgrades to show; psflip remembers 16' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand status" -l timeline -d 'Draw the last upgrades into this file (`-`: standard output)' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand status" -l timeout -d 'How long psflip may take to answer' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand status" -l json -d 'Print the status as one JSON object (see docs/control.md); with --watch, one a line'
complete -c psflip -n "__fish_psflip_using_subcommand status" -l watch -d 'Show every change as it happens, until Ctrl-C'
complete -c psflip -n "__fish_psflip_using_subcommand status" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand stop" -s c -l config -d 'The configuration that psflip was started with, which says where its control socket is' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand stop" -l socket -d 'The control socket itself' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand stop" -l timeout -d 'Wait no longer than this, as `90s` or `5m`' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand stop" -l no-wait -d 'Only ask; don\'t wait'
complete -c psflip -n "__fish_psflip_using_subcommand stop" -l json -d 'Print what psflip says, one JSON object a line (see docs/control.md)'
complete -c psflip -n "__fish_psflip_using_subcommand stop" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand watch" -l pidfile -d 'Where the service writes its pid' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand watch" -l patience -d 'How long another process may take to become the service when it has ended, if FILE is still there or an older one still lives' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand watch" -l grace -d 'How long what is left of COMMAND at the end may take to end' -r -f
complete -c psflip -n "__fish_psflip_using_subcommand watch" -s q -l quiet -d 'Print nothing below errors'
complete -c psflip -n "__fish_psflip_using_subcommand watch" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand migrate" -s o -l output -d 'Where to write the result (default: standard output)' -r -F
complete -c psflip -n "__fish_psflip_using_subcommand migrate" -l format -d 'What the file is written in (default: as its name says, or else its text)' -r -f -a "yaml\t''
json\t''
toml\t''"
complete -c psflip -n "__fish_psflip_using_subcommand migrate" -l force -d 'Overwrite the output if it is there already'
complete -c psflip -n "__fish_psflip_using_subcommand migrate" -s h -l help -d 'Print help'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status stop watch migrate help" -f -a "run" -d 'Run the child of a configuration, and upgrade it on request (the default)'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status stop watch migrate help" -f -a "check" -d 'Print the effective configuration, or every error in it; start nothing'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status stop watch migrate help" -f -a "upgrade" -d 'Replace the child of a running psflip, and wait until the new one serves'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status stop watch migrate help" -f -a "status" -d 'Show how a running psflip and its child are, and what happened last'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status stop watch migrate help" -f -a "stop" -d 'End a running psflip and its child'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status stop watch migrate help" -f -a "watch" -d 'Keep one steady process above a program that replaces itself and its pidfile'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status stop watch migrate help" -f -a "migrate" -d 'Translate a configuration of upstream psflip (YAML, JSON or TOML with Go templates)'
complete -c psflip -n "__fish_psflip_using_subcommand help; and not __fish_seen_subcommand_from run check upgrade status stop watch migrate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'

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
complete -c psflip -n "__fish_psflip_using_subcommand stop" -f
complete -c psflip -n "__fish_psflip_using_subcommand watch; and contains -- -- (commandline -opc)" -f -a "(__fish_psflip_program)"
complete -c psflip -n "__fish_psflip_using_subcommand watch" -f
complete -c psflip -n "__fish_psflip_using_subcommand help" -f
complete -c psflip -n "__fish_psflip_using_subcommand help" -f -a "run check upgrade status stop watch migrate help"
