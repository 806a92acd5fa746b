<?php
// For php-cgi.toml and php-fpm.toml: reports which process answers and what it received.
$body = file_get_contents('php://input');
parse_str($_SERVER['QUERY_STRING'] ?? '', $query);
header('Content-Type: text/plain');
$sum = array_sum(unpack('C*', $body) ?: []);
printf(
    "name=gen%s pid=%d stdin=%d sum=%d echo=%s\n",
    getenv('PSFLIP_GENERATION') ?: 0, getmypid(), strlen($body), $sum, $query['echo'] ?? '');
