# Completions of psflip(1) for bash. Made by `cargo xtask docs`.
_psflip() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} used= flags= words= i
    COMPREPLY=()
    # readline takes `--flag=value` for three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case ${COMP_WORDS[1]} in
        run | check | upgrade | status | list | metrics | stop | rollback | keep | hold | resume | reopen | watch | migrate | rehearse | help) ((COMP_CWORD == 1)) || used=${COMP_WORDS[1]} ;;
    esac
    # Behind `--` stands a program, with completions of its own.
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -- ]] || continue
        if declare -F _command_offset >/dev/null; then
            _command_offset $((i + 1))
        elif ((i + 1 == COMP_CWORD)); then
            mapfile -t COMPREPLY < <(compgen -c -- "$cur")
        else
            compopt -o default
        fi
        return
    done
    case $used:$prev in
        :--config | :-c | run:--watch | run:--config | run:-c | run:--pidfile | run:--control-socket | run:--env-file | run:--healthcheck-unix | run:--healthcheck-script | run:--log-file | check:--config | check:-c | check:--pidfile | check:--control-socket | check:--env-file | check:--healthcheck-unix | check:--healthcheck-script | check:--log-file | upgrade:--config | upgrade:-c | upgrade:--socket | status:--config | status:-c | status:--socket | status:--timeline | metrics:--config | metrics:-c | metrics:--socket | stop:--config | stop:-c | stop:--socket | rollback:--config | rollback:-c | rollback:--socket | keep:--config | keep:-c | keep:--socket | hold:--config | hold:-c | hold:--socket | resume:--config | resume:-c | resume:--socket | reopen:--config | reopen:-c | reopen:--socket | watch:--pidfile | migrate:--output | migrate:-o | rehearse:--config | rehearse:-c | rehearse:--body | rehearse:--next | rehearse:--psflip)
            compopt -o default; return ;;
        run:--workdir | run:--env-dir | check:--workdir | check:--env-dir | rehearse:--out)
            compopt -o dirnames; return ;;
        run:--listen | run:--proxy | run:--env | run:--env-remove | run:--healthcheck-http | run:--healthcheck-method | run:--healthcheck-host | run:--healthcheck-header | run:--healthcheck-tcp | run:--healthcheck-fcgi | run:--healthcheck-command | run:--healthcheck-docker | run:--healthcheck-alive | run:--healthcheck-status | run:--healthcheck-after | run:--healthcheck-interval | run:--healthcheck-timeout | run:--healthcheck-successes | run:--healthcheck-failures | run:--healthcheck-settle | run:--signal | run:--upgrade-timeout | run:--upgrade-bake | run:--upgrade-precheck | run:--upgrade-draining | run:--recycle-after | run:--recycle-memory | run:--recycle-jitter | run:--recycle-interval | run:--shutdown-delay | run:--shutdown-timeout | run:--switch | run:--hook-promote | run:--hook-promoted | run:--hook-failed | run:--hook-rolled-back | run:--hook-timeout | run:--stdout | run:--stderr | run:--output-mode | run:--output-owner | run:--output-group | check:--listen | check:--proxy | check:--env | check:--env-remove | check:--healthcheck-http | check:--healthcheck-method | check:--healthcheck-host | check:--healthcheck-header | check:--healthcheck-tcp | check:--healthcheck-fcgi | check:--healthcheck-command | check:--healthcheck-docker | check:--healthcheck-alive | check:--healthcheck-status | check:--healthcheck-after | check:--healthcheck-interval | check:--healthcheck-timeout | check:--healthcheck-successes | check:--healthcheck-failures | check:--healthcheck-settle | check:--signal | check:--upgrade-timeout | check:--upgrade-bake | check:--upgrade-precheck | check:--upgrade-draining | check:--recycle-after | check:--recycle-memory | check:--recycle-jitter | check:--recycle-interval | check:--shutdown-delay | check:--shutdown-timeout | check:--switch | check:--hook-promote | check:--hook-promoted | check:--hook-failed | check:--hook-rolled-back | check:--hook-timeout | check:--stdout | check:--stderr | check:--output-mode | check:--output-owner | check:--output-group | upgrade:--user | upgrade:--timeout | status:--last | status:--timeout | list:--timeout | metrics:--listen | metrics:--timeout | stop:--timeout | rollback:--timeout | keep:--timeout | hold:--max | hold:--timeout | resume:--timeout | reopen:--timeout | watch:--patience | watch:--grace | rehearse:--load | rehearse:--header | rehearse:--clients | rehearse:--rate | rehearse:--flips | rehearse:--beside | rehearse:--pass | rehearse:--during | rehearse:--service | rehearse:--pause | rehearse:--timeout | rehearse:--start-timeout | rehearse:--accept | rehearse:--max-lost | rehearse:--max-keep-alive-lost | rehearse:--max-flip | rehearse:--max-p99)
            return ;;
        run:--upgrade-signal | run:--shutdown-signal | check:--upgrade-signal | check:--shutdown-signal)
            words="SIGHUP SIGINT SIGQUIT SIGTERM SIGUSR1 SIGUSR2 SIGWINCH SIGRTMIN+1" ;;
        upgrade:--progress)
            words="auto plain json" ;;
        run:--log-format | check:--log-format)
            words="auto text json journald" ;;
        rehearse:--bad)
            words="crash hang missing broken dies-later" ;;
        run:--log-level | check:--log-level)
            words="error warn info debug trace" ;;
        run:--shutdown-orphans | check:--shutdown-orphans)
            words="kill leave" ;;
        rehearse:--kinds)
            words="new keep-alive post post-half stream websocket" ;;
        rehearse:--net)
            words="own host" ;;
        upgrade:--wait)
            words="traffic baked drained" ;;
        migrate:--format)
            words="yaml json toml" ;;
    esac
    case $used: in
        :) flags="--config -c --foreground --no-anchor --help -h --version -V" ;;
        run:) flags="--foreground --no-anchor --watch --config -c --listen --proxy --pidfile --control-socket --no-control-socket --workdir --env --env-file --env-dir --env-remove --healthcheck-http --healthcheck-method --healthcheck-host --healthcheck-header --healthcheck-tcp --healthcheck-unix --healthcheck-fcgi --healthcheck-script --healthcheck-command --healthcheck-docker --healthcheck-notify --healthcheck-alive --healthcheck-status --healthcheck-after --healthcheck-interval --healthcheck-timeout --healthcheck-successes --healthcheck-failures --healthcheck-settle --signal --upgrade-signal --upgrade-timeout --upgrade-bake --upgrade-precheck --upgrade-draining --no-overlap --recycle-after --recycle-memory --recycle-jitter --recycle-interval --shutdown-delay --shutdown-signal --shutdown-timeout --shutdown-orphans --switch --hook-promote --hook-promoted --hook-failed --hook-rolled-back --hook-timeout --stdout --stderr --output-mode --output-owner --output-group --log-format --log-level --log-file --quiet --help -h" ;;
        check:) flags="--foreground --no-anchor --strict --config -c --listen --proxy --pidfile --control-socket --no-control-socket --workdir --env --env-file --env-dir --env-remove --healthcheck-http --healthcheck-method --healthcheck-host --healthcheck-header --healthcheck-tcp --healthcheck-unix --healthcheck-fcgi --healthcheck-script --healthcheck-command --healthcheck-docker --healthcheck-notify --healthcheck-alive --healthcheck-status --healthcheck-after --healthcheck-interval --healthcheck-timeout --healthcheck-successes --healthcheck-failures --healthcheck-settle --signal --upgrade-signal --upgrade-timeout --upgrade-bake --upgrade-precheck --upgrade-draining --no-overlap --recycle-after --recycle-memory --recycle-jitter --recycle-interval --shutdown-delay --shutdown-signal --shutdown-timeout --shutdown-orphans --switch --hook-promote --hook-promoted --hook-failed --hook-rolled-back --hook-timeout --stdout --stderr --output-mode --output-owner --output-group --log-format --log-level --log-file --quiet --help -h" ;;
        upgrade:) flags="--config -c --socket --all --user --dry-run --wait --keep --end-draining --no-wait --timeout --strict --quiet -q --progress --json --help -h" ;;
        status:) flags="--config -c --socket --json --watch --check --running-config --last --timeline --timeout --help -h" ;;
        list:) flags="--json --timeout --help -h" ;;
        metrics:) flags="--config -c --socket --all --listen --timeout --help -h" ;;
        stop:) flags="--config -c --socket --no-wait --timeout --json --help -h" ;;
        rollback:) flags="--config -c --socket --json --timeout --help -h" ;;
        keep:) flags="--config -c --socket --json --timeout --help -h" ;;
        hold:) flags="--max --config -c --socket --json --timeout --help -h" ;;
        resume:) flags="--config -c --socket --json --timeout --help -h" ;;
        reopen:) flags="--config -c --socket --json --timeout --help -h" ;;
        watch:) flags="--pidfile --patience --grace --quiet -q --help -h" ;;
        migrate:) flags="--output -o --force --format --help -h" ;;
        rehearse:) flags="--config -c --load --kinds --header --body --clients --rate --flips --bad --next --beside --pass --net --during --service --pause --timeout --start-timeout --accept --max-lost --max-keep-alive-lost --max-flip --max-p99 --out --json --no-sandbox --psflip --help -h --version -V" ;;
        help:) flags="" ;;
    esac
    if [[ $words ]]; then
        :
    elif [[ $cur == -* ]]; then
        words=$flags
    else
        case $used:$COMP_CWORD in
            :1 | help:2) words="run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help" ;;
            migrate:2) words="start_server spawn-fcgi supervisord runit procfile"; compopt -o default ;;
            help:2) words="run check upgrade status list metrics stop rollback keep hold resume reopen watch migrate rehearse help"; compopt -o default ;;
            migrate:*) compopt -o default; return ;;
            *) words=$flags ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _psflip psflip
