import json, time, os
def test_live():
    from tests.federation import Live, consortium, JURISDICTIONS
    from client.link_view import link_state, link_fields
    live=Live(consortium())
    try:
        live.start()
        live.wait(lambda: all((s:=link_state(live.made.home(x))) and s.state=="online" for x in JURISDICTIONS), 60, "links")
        print({x: link_fields(live.made.home(x))["governance"]["state"] for x in JURISDICTIONS})
        time.sleep(20)
        p=live.pid("a")
        def cpu(): 
            f=open(f"/proc/{p}/stat").read().rpartition(")")[2].split(); return (int(f[11])+int(f[12]))/100
        c=cpu(); time.sleep(20); print("agent core", (cpu()-c)/20)
        print([l for l in open(f"/proc/{p}/status") if l.startswith(("VmRSS","Threads"))])
        print(os.listdir(live.made.hub/"exchange"))
        t=time.time(); live._services["a"].terminate(); print("exit", live._services["a"].wait(30), time.time()-t)
        print(live.report()[-3000:])
    finally: live.stop()
