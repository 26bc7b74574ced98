"""The parts that depend on FastAPI's and Starlette's routing, over the versions whose routing differs."""

import nox

nox.options.default_venv_backend = "venv"

VERSIONS = {
    "0.115": ["fastapi==0.115.14", "starlette==0.46.2"],
    "0.136": ["fastapi==0.136.0"],
    "0.141": ["fastapi==0.141.0"],
    "newest": ["fastapi"],
}
TESTS = ["tests/routing", "tests/middleware"]


@nox.session(python=False)
@nox.parametrize("fastapi", list(VERSIONS))
def routing(session: nox.Session, fastapi: str) -> None:
    """Differential fuzz and transparency tests with one FastAPI and its Starlette."""
    home = session.create_tmp()
    session.run("python", "-m", "venv", f"{home}/{fastapi}", silent=True)
    python = f"{home}/{fastapi}/bin/python"
    packages = ["pytest", "pytest-timeout", "hypothesis", "httpx", "httpx-ws", "uvicorn[standard]", "granian"]
    packages += ["python-multipart", "itsdangerous", "limits>=5,<6", "redis>=5.2,<8"]
    session.run(python, "-m", "pip", "install", "-q", "-e", ".", *packages, *VERSIONS[fastapi], external=True)
    session.run(python, "-m", "pytest", *TESTS, *session.posargs, external=True)
