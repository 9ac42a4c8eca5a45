package dht

import (
	"net/netip"
)

// serve answers the query of another node, within the rates. A node that only
// asks stays silent (BEP 43).
func (c *Core) serve(from netip.AddrPort, m *message, err error) {
	c.stats.Queries++
	if c.readOnly() || c.isSelf(m.id) && err == nil {
		return
	}
	if c.limiter == nil {
		c.limiter = &limiter{seed: c.cfg.Random()}
	}
	c.tokens.rotate(c.now, c.cfg.Random)
	answer := message{kind: 'r', tid: m.tid, ip: from, id: c.table[family(from)].self}
	r := &refusal{codeProtocol, "wrong arguments"}
	if err == nil {
		r = c.handle(from, m, &answer)
	}
	if r != nil {
		answer = message{kind: 'e', tid: m.tid, ip: from, code: r.code, text: r.text}
	}
	c.buf = answer.append(c.buf[:0])
	for len(c.buf) > MaxAnswer && answer.shorten() {
		c.buf = answer.append(c.buf[:0])
	}
	if !c.limiter.answer(c.now, from.Addr(), len(c.buf)) {
		c.stats.Limited++
		return
	}
	c.stats.Replies++
	_ = c.cfg.Send(from, c.buf) // lost like any datagram
	if err == nil && !m.readOnly {
		c.table[family(from)].keepSpare(node{m.id, from})
	}
}

// shorten leaves out what can be asked for again.
func (m *message) shorten() bool {
	switch {
	case len(m.nodes6) > 0 && len(m.nodes) > 0:
		m.nodes6 = nil
	case len(m.values) > 0:
		m.values = m.values[:len(m.values)-1]
	case len(m.nodes6) > 0:
		m.nodes6 = m.nodes6[:len(m.nodes6)-38]
	case len(m.nodes) > 0:
		m.nodes = m.nodes[:len(m.nodes)-26]
	default:
		return false
	}
	return true
}

// handle fills in the answer to a query, or says why there is none.
func (c *Core) handle(from netip.AddrPort, m, answer *message) *refusal {
	switch m.query {
	case "ping":
		return nil
	case "find_node", "get":
		if !m.hasTarget {
			return &refusal{codeProtocol, "no target"}
		}
		c.nodesFor(from, m, m.target, answer)
		if m.query == "get" {
			answer.token = c.tokens.give(from.Addr())
			c.store.get(m.target, c.now).answer(m, answer)
		}
		return nil
	case "get_peers":
		if !m.hasInfoHash {
			return &refusal{codeProtocol, "no info_hash"}
		}
		c.nodesFor(from, m, m.infoHash, answer)
		answer.token = c.tokens.give(from.Addr())
		answer.values = c.peers.get(m.infoHash, family(from), MaxPeersPerAnswer/2, c.now)
		return nil
	case "announce_peer", "put":
		if !c.tokens.good(m.token, from.Addr()) {
			return &refusal{codeProtocol, "wrong token"}
		}
		if m.query == "put" {
			return c.store.put(c.home(), m, from.Addr(), c.now, func() bool { return c.limiter.verify(c.now) })
		}
		return c.keepPeer(from, m)
	}
	return &refusal{codeMethod, "unknown method"}
}

// keepPeer takes an announce. The address is that of the sender always.
func (c *Core) keepPeer(from netip.AddrPort, m *message) *refusal {
	port := m.port
	if m.impliedPort {
		port = from.Port()
	}
	if !m.hasInfoHash || port == 0 {
		return &refusal{codeProtocol, "no info_hash or port"}
	}
	return c.peers.announce(m.infoHash, netip.AddrPortFrom(from.Addr(), port), c.now)
}

// nodesFor names the nearest nodes of the families wanted. Nobody is told of
// nodes that he can't reach: those in our own network, if he is outside.
func (c *Core) nodesFor(from netip.AddrPort, m *message, target ID, answer *message) {
	want := [2]bool{m.want4, m.want6}
	if !m.want4 && !m.want6 {
		want[family(from)] = true
	}
	far := reachOf(from.Addr())
	for f := range want {
		if !want[f] || !c.fams[f] {
			continue
		}
		list := []byte{} // "nodes" is there even if it is empty
		for _, n := range c.table[f].closest(target, 2*K) {
			if len(list) < K*(26+12*f) && reachOf(n.addr.Addr()) >= far && n.addr != from {
				list = appendAddr(append(list, n.id[:]...), n.addr)
			}
		}
		if f == 0 {
			answer.nodes = list
		} else {
			answer.nodes6 = list
		}
	}
}

// answer fills in the item, or only its seq if the asker has it already.
func (it *stored) answer(m, answer *message) {
	if it == nil {
		return
	}
	if it.mutable {
		answer.seq, answer.hasSeq = it.seq, true
		if m.hasSeq && it.seq <= m.seq {
			return
		}
		answer.key, answer.sig = it.key[:], it.sig[:]
	}
	answer.v = it.v
}
