"""A libtorrent DHT node on loopback that does what it is told, line by line.

Each line of the standard input is a JSON object with "do"; each answer is a
line on the standard output. Byte strings are hexadecimal.
"""
import json
import sys
import time
import warnings

import libtorrent as lt

# Session.status is old, and the one way to the size of the table that does not
# depend on the order of alerts.
warnings.simplefilter("ignore", DeprecationWarning)

TIME = 15.0  # seconds for one order


def session():
    return lt.session({
        "listen_interfaces": "127.0.0.1:0",
        "enable_dht": True,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "dht_bootstrap_nodes": "",
        "dht_restrict_routing_ips": False,
        "dht_restrict_search_ips": False,
        "dht_prefer_verified_node_ids": False,
        "dht_enforce_node_id": False,
        "dht_ignore_dark_internet": False,
        "alert_mask": lt.alert.category_t.all_categories,
    })


class Node:
    def __init__(self):
        self.ses = session()
        # The system chooses the port, one for TCP and UDP.
        self.wait(lambda a: a.what() == "listen_succeeded")
        self.port = self.ses.listen_port()

    def wait(self, good):
        end = time.time() + TIME
        while time.time() < end:
            self.ses.wait_for_alert(100)
            for a in self.ses.pop_alerts():
                if good(a):
                    return a
        raise TimeoutError("no such alert")

    def add(self, o):
        self.ses.add_dht_node((o["host"], o["port"]))
        end = time.time() + TIME
        while time.time() < end:
            if self.ses.status().dht_nodes >= o.get("nodes", 1):
                return {"nodes": self.ses.status().dht_nodes}
            self.ses.pop_alerts()
            time.sleep(0.05)
        raise TimeoutError("no node in the table")

    def put_mutable(self, o):
        key, public = bytes.fromhex(o["secret"]), bytes.fromhex(o["key"])
        self.ses.dht_put_mutable_item(key, public, bytes.fromhex(o["value"]), bytes.fromhex(o["salt"]))
        a = self.wait(lambda a: a.what() == "dht_put")
        return {"stored": a.num_success}

    def get_mutable(self, o):
        self.ses.dht_get_mutable_item(bytes.fromhex(o["key"]), bytes.fromhex(o["salt"]))
        a = self.wait(lambda a: a.what() == "dht_mutable_item" and a.authoritative)
        return self.item(a)

    def item(self, a):
        # The binding offers the parts as attributes or as a dictionary,
        # depending on its version.
        value = a.item["value"] if isinstance(a.item, dict) and "value" in a.item else a.item
        if isinstance(value, str):
            value = value.encode("latin-1")
        return {"value": value.hex() if isinstance(value, bytes) else repr(value), "seq": getattr(a, "seq", -1)}

    def put_immutable(self, o):
        h = self.ses.dht_put_immutable_item(bytes.fromhex(o["value"]))
        a = self.wait(lambda a: a.what() == "dht_put")
        return {"stored": a.num_success, "target": str(h)}

    def get_immutable(self, o):
        self.ses.dht_get_immutable_item(lt.sha1_hash(bytes.fromhex(o["target"])))
        return self.item(self.wait(lambda a: a.what() == "dht_immutable_item"))

    def announce(self, o):
        # The binding's dht_announce can't be called: no Python value becomes
        # its flags. A torrent announces itself, with the session's port.
        p = lt.add_torrent_params()
        p.info_hashes = lt.info_hash_t(lt.sha1_hash(bytes.fromhex(o["hash"])))
        p.save_path = o["folder"]
        self.ses.add_torrent(p).force_dht_announce()
        return {}

    def peers(self, o):
        self.ses.dht_get_peers(lt.sha1_hash(bytes.fromhex(o["hash"])))
        a = self.wait(lambda a: a.what() == "dht_get_peers_reply" and a.peers())
        return {"peers": ["%s:%d" % tuple(p) for p in a.peers()]}


def main():
    node = Node()
    print(json.dumps({"port": node.port, "version": lt.version}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(node, order["do"])(order)
        except Exception as e:  # the test shows it
            answer = {"error": "%s: %s" % (type(e).__name__, e)}
        print(json.dumps(answer), flush=True)


main()
