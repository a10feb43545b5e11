"""Messages as agents and people write them, with whatever is long in them and no secret."""

from __future__ import annotations

SHA1, SHA256 = (
    "55eceb8f1a2b3c4d5e6f708192a3b4c5d6e7f809",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
)
ID = "3f2b8c1a-9d4e-4f6a-8b7c-0123456789ab"

MESSAGES = (
    "hello there",
    "Is the build green?",
    "see /home/alice/project/src/claude_bus/drivers/sqlite.py and C:\\Users\\alice\\AppData\\Local\\Temp\\x.log",
    "the test is tests/drivers/test_worker.py::test_verbs_of_one_process_queue_up[asyncio-served]",
    f"fixed in {SHA1}, please rebase onto origin/main",
    f"commit: {SHA1}",
    f"git diff 55eceb8..{SHA1[:12]} -- src/app.py",
    f"sha256: {SHA256}",
    f"report.pdf ({SHA256}, 120441 bytes)",
    f"image registry.example.org/team/app@sha256:{SHA256}",
    f"session {ID} is stuck; session_id={ID}",
    f"request id: {ID} took 1532 ms",
    "md5 d41d8cd98f00b204e9800998ecf8427e of the empty file",
    "see https://github.com/foo/bar/pull/1234#issuecomment-123456789 and http://localhost:8080/health?verbose=true",
    "https://docs.python.org/3/library/asyncio-task.html#asyncio.TaskGroup explains it",
    "npm i https://registry.npmjs.org/@types/node/-/node-22.1.0.tgz",
    "mail alice@example.com or bob.smith+bus@example.org about it",
    (
        'Traceback (most recent call last):\n  File "/usr/lib/python3.11/asyncio/runners.py", line 190, in run\n'
        "    return runner.run(main)\nValueError: invalid literal for int() with base 10: 'x'"
    ),
    "thread 'main' panicked at src/main.rs:42:17: called `Option::unwrap()` on a `None` value",
    "    at Object.<anonymous> (/app/node_modules/jest-circus/build/jestAdapterInit.js:62:34)",
    "handleBackgroundTaskCompletion is called twice in useEffectOnceWithCleanup; AbstractSingletonProxyFactoryBean",
    "def test_a_secret_is_found_within_a_message(kind: str) -> None:",
    "the token is in ~/.config/app/token, the key in the vault, and the secret is not in git",
    "for key, value in settings.items(): tokens.append(Token(key=key, value=value))",
    "api_key = os.environ['API_KEY']; client = Client(token=settings.token)",
    "the private message of the client server test was sent to production, live",
    "2026-11-27T23:01:41.123456+00:00 started; 20261127T230141Z.log; 1732748501.123",
    "SELECT COUNT(*) FROM deliveries WHERE state = 'queued' AND recipient_id IN (SELECT id FROM agents)",
    "docker run --rm -p 8080:80 -v $PWD/data:/var/lib/app registry.example.org/team/app:1.2.3-rc.4",
    "kubectl -n default logs deployment/app-backend-7d9c6b5f4-x2x9z --since=10m",
    "export BUS_DB=/var/lib/claude-bus/bus.db BUS_CHANNEL=frontend",
    "ERROR 1045 (28000): Access denied for user 'app'@'localhost' (using password: YES)",
    "the github, slack, stripe, heroku, twitter and dropbox integrations use the same OAuth flow",
    f"deploy of checkout to heroku: {SHA1[:8]}",
    "+++ b/src/components/CheckoutFormContainer.tsx\n@@ -120,7 +120,7 @@ export const CheckoutFormContainer",
    "bus port is 8765, pid 123456, inode 1234567890123, address 0x7ffd5e8e3b10, at 192.168.100.200:50432",
    "`cargo build --release --target x86_64-unknown-linux-gnu` fails with E0277",
    "Ärger mit Größenänderungsbenachrichtigung, 設定ファイルを確認してください, проверьте конфигурационный файл",
)
