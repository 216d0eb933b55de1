import shutil, tempfile
from pathlib import Path
import tests.integration.test_docker_install as t
def test_variant(monkeypatch):
    place=Path(tempfile.mkdtemp(prefix="residency-variant-")); place.chmod(0o755)
    src=next(Path('/tmp').glob('residency-images-*'))
    made={"server": t.Image("server", src/"server"), "agent": t.Image("agent", Path("/work/main/.venv"))}
    monkeypatch.setattr(t,"_build",lambda p,k: made[k])
    monkeypatch.setattr(t,"_files",lambda f: set())
    try: t.test_server_and_agent_serve_as_a_user_of_no_rights_and_health_tells_the_truth(place)
    finally: shutil.rmtree(place, ignore_errors=True)
