"""The fixture with uvicorn: in a thread of the test's process, and as a process of its own."""

from __future__ import annotations

from tests.testing.conftest import Run


def test_real_servers(run: Run) -> None:
    result = run(
        """
        import contextlib, os, socket, subprocess, sys, threading, time
        import httpx, pytest, uvicorn

        CLERK = {"X-User": "clerk-1"}

        def free_port():
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                return probe.getsockname()[1]

        def ask(url):
            for _ in range(2000):
                with contextlib.suppress(httpx.TransportError):
                    return httpx.get(url, headers=CLERK, timeout=30)
                time.sleep(0.02)

        def test_in_a_thread(audit_log):
            from service import app
            port = free_port()
            server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
            thread = threading.Thread(target=server.run)
            thread.start()
            assert ask(f"http://127.0.0.1:{port}/invoices/3").status_code == 200
            audit_log.assert_audited("invoice.read", resource="invoice/3")
            server.should_exit = True
            thread.join()

        def test_in_a_process(audit_log):
            source = open("service.py").read().replace('log="/nowhere/audit", service="billing", ', "")
            open("deployed.py", "w").write(source)
            port = free_port()
            audit_log.timeout = 60
            process = subprocess.Popen([sys.executable, "-m", "uvicorn", "deployed:app", "--port", str(port)])
            try:
                assert ask(f"http://127.0.0.1:{port}/invoices/4").status_code == 200
                audit_log.assert_audited("invoice.read", resource="invoice/4", user="clerk-1")
                assert len(audit_log.wait(1, action="invoice.read")) == 1
            finally:
                process.terminate()
                process.wait(60)
            assert audit_log.verify().holds
    """,
        own_process=True,
    )
    result.assert_outcomes(passed=2)
