// Upgrades under load, for node:test (docs/testing-your-app.md): node --test upgrade.test.mjs
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import test from "node:test";

test("an upgrade loses no request", () => {
  const service = ["--proxy", "http://127.0.0.1:8080", "--", process.execPath, "server.mjs"];
  const args = ["rehearse", "--flips", "3", "--kinds", "new,keep-alive,post", "--", ...service];
  const { status, stdout, stderr, error } = spawnSync("psflip", args, { encoding: "utf8" });
  assert.ifError(error);
  assert.equal(status, 0, stdout + stderr); // each loss, its cause, and what to do
});
