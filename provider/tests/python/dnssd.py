"""python-zeroconf as the other side: it browses, or it publishes until it is ended.

Usage: dnssd.py browse TYPE
       dnssd.py publish TYPE NAME ADDRESS PORT [KEY=VALUE]...
"""

import socket
import sys
import threading

from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, Zeroconf


class Listener:
    """Prints a line for whatever happens to a service."""

    def say(self, event, zeroconf, kind, name):
        info = zeroconf.get_service_info(kind, name, 5000)
        if info is None:
            return
        facts = [f"{key.decode()}={(value or b'').decode()}" for key, value in info.properties.items()]
        addresses = ",".join(sorted(info.parsed_addresses(IPVersion.All)))
        print(event, name, addresses, info.port, *sorted(facts), flush=True)

    def add_service(self, zeroconf, kind, name):
        self.say("found", zeroconf, kind, name)

    def update_service(self, zeroconf, kind, name):
        self.say("changed", zeroconf, kind, name)

    def remove_service(self, zeroconf, kind, name):
        print("lost", name, flush=True)


def publish(zeroconf, kind, name, address, port, *facts):
    info = ServiceInfo(
        kind,
        f"{name}.{kind}",
        addresses=[socket.inet_aton(address)],
        port=int(port),
        properties=dict(fact.split("=", 1) for fact in facts),
        server="foreign.local.",
    )
    zeroconf.register_service(info, allow_name_change=True)
    print("published", info.name, flush=True)


if __name__ == "__main__":
    running = Zeroconf(ip_version=IPVersion.All)
    task, *rest = sys.argv[1:]
    if task == "browse":
        browser = ServiceBrowser(running, rest[0], Listener())
        print("browsing", flush=True)
    else:
        publish(running, *rest)
    threading.Event().wait()
