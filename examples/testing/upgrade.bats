#!/usr/bin/env bats
# Upgrades under load, for bats (docs/testing-your-app.md). Port 8080 is one of the sandbox.

@test "an upgrade loses no request" {
    run psflip rehearse --flips 3 -- --proxy http://127.0.0.1:8080 -- node server.mjs
    echo "$output" # bats shows it if the test fails: each loss, its cause, and what to do
    [ "$status" -eq 0 ]
}

@test "this test would find a server that loses requests" {
    run psflip rehearse --flips 1 --load http://127.0.0.1:8080/ -- \
        --listen tcp://127.0.0.1:8080 --healthcheck-alive 100ms -- \
        psflip-fixture http-server --inherit listen_fds --careless
    echo "$output"
    [ "$status" -eq 1 ]
    [[ "$output" == *"requests were lost"* ]]
}
