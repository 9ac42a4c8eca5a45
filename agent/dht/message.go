package dht

import (
	"errors"
	"math"
	"net/netip"

	"porchlight/agent/dht/bencode"
)

// message is one KRPC message (BEP 5) with every field that we send or look
// at. Its byte slices are views of the datagram it was read from.
type message struct {
	kind     byte // 'q', 'r' or 'e'
	tid      []byte
	query    string
	readOnly bool           // BEP 43
	ip       netip.AddrPort // BEP 42: how the answering node sees us
	code     int
	text     string

	id          ID
	target      ID
	hasTarget   bool
	infoHash    ID
	hasInfoHash bool
	token       []byte
	port        uint16
	impliedPort bool
	want4       bool
	want6       bool
	nodes       []byte
	nodes6      []byte
	values      []netip.AddrPort

	key    []byte
	sig    []byte
	salt   []byte
	v      []byte // as it came
	seq    int64
	hasSeq bool
	cas    int64
	hasCas bool
}

// errMessage says that a datagram is no KRPC message; errArguments that it is
// a query whose arguments are wrong, which deserves an answer.
var (
	errMessage   = errors.New("not a KRPC message")
	errArguments = errors.New("arguments of the query are wrong")
)

// parseMessage reads a datagram. With errArguments, tid and query are set.
func parseMessage(b []byte) (m message, err error) {
	if len(b) > MaxDatagram {
		return m, errMessage
	}
	top, err := bencode.Parse(b)
	if err != nil || !top.IsDict() {
		return m, errMessage
	}
	tid, ok := top.Get("t").Bytes()
	if !ok || len(tid) == 0 || len(tid) > MaxTransaction {
		return m, errMessage
	}
	kind, _ := top.Get("y").Bytes()
	if len(kind) != 1 {
		return m, errMessage
	}
	m.tid, m.kind = tid, kind[0]
	switch m.kind {
	case 'q':
		return m, m.parseQuery(top)
	case 'r':
		return m, m.parseAnswer(top)
	case 'e':
		m.parseError(top.Get("e"))
		return m, nil
	}
	return m, errMessage
}

func (m *message) parseQuery(top bencode.Value) error {
	name, ok := top.Get("q").Bytes()
	if !ok || len(name) > 32 {
		return errMessage
	}
	m.query = string(name)
	ro, _ := top.Get("ro").Int()
	m.readOnly = ro == 1
	if !m.body(top.Get("a")) {
		return errArguments
	}
	return nil
}

func (m *message) parseAnswer(top bencode.Value) error {
	if ip, ok := top.Get("ip").Bytes(); ok {
		m.ip, _ = readAddr(ip)
	}
	if !m.body(top.Get("r")) {
		return errMessage
	}
	return nil
}

func (m *message) parseError(e bencode.Value) {
	n := 0
	e.Each(func(v bencode.Value) bool {
		if n++; n == 1 {
			code, _ := v.Int()
			m.code = int(min(max(code, 0), 999))
			return true
		}
		s, _ := v.Bytes()
		m.text = string(s[:min(len(s), 64)])
		return false
	})
}

// fields collects what is wrong with a dictionary while it is read.
type fields struct {
	d   bencode.Value
	bad bool
}

// bytes returns a byte string of at most limit bytes.
func (f *fields) bytes(key string, limit int) []byte {
	v := f.d.Get(key)
	if !v.Exists() {
		return nil
	}
	s, ok := v.Bytes()
	if !ok || len(s) > limit {
		f.bad = true
		return nil
	}
	return s
}

func (f *fields) id(key string) (id ID, ok bool) {
	v := f.d.Get(key)
	if !v.Exists() {
		return id, false
	}
	if s, _ := v.Bytes(); len(s) == len(id) {
		return ID(s), true
	}
	f.bad = true
	return id, false
}

func (f *fields) int(key string, low, high int64) (int64, bool) {
	v := f.d.Get(key)
	if !v.Exists() {
		return 0, false
	}
	i, ok := v.Int()
	if !ok || i < low || i > high {
		f.bad = true
		return 0, false
	}
	return i, true
}

// body reads "a" or "r".
func (m *message) body(d bencode.Value) bool {
	f := fields{d: d}
	var ok bool
	if m.id, ok = f.id("id"); !ok {
		return false
	}
	m.target, m.hasTarget = f.id("target")
	m.infoHash, m.hasInfoHash = f.id("info_hash")
	m.token = f.bytes("token", MaxToken)
	port, _ := f.int("port", 0, math.MaxUint16)
	m.port = uint16(port)
	implied, _ := f.int("implied_port", 0, math.MaxInt64)
	m.impliedPort = implied != 0
	m.nodes = f.bytes("nodes", MaxDatagram)
	m.nodes6 = f.bytes("nodes6", MaxDatagram)
	m.key = f.bytes("k", MaxDatagram)
	m.sig = f.bytes("sig", MaxDatagram)
	m.salt = f.bytes("salt", MaxDatagram)
	m.seq, m.hasSeq = f.int("seq", math.MinInt64, math.MaxInt64)
	m.cas, m.hasCas = f.int("cas", math.MinInt64, math.MaxInt64)
	m.v = d.Get("v").Raw()
	d.Get("want").Each(func(w bencode.Value) bool {
		s, _ := w.Bytes()
		m.want4 = m.want4 || string(s) == "n4"
		m.want6 = m.want6 || string(s) == "n6"
		return true
	})
	d.Get("values").Each(func(v bencode.Value) bool {
		s, _ := v.Bytes()
		if a, ok := readAddr(s); ok && usable(a) {
			m.values = append(m.values, a)
		}
		return len(m.values) < MaxPeersPerAnswer
	})
	return !f.bad
}

// append writes the message, keys in ascending order.
func (m *message) append(b []byte) []byte {
	b = append(b, 'd')
	switch m.kind {
	case 'q':
		b = m.appendBody(bencode.AppendString(b, "a"))
		b = bencode.AppendString(b, "q")
		b = bencode.AppendString(b, m.query)
		if m.readOnly {
			b = appendIntField(b, "ro", 1)
		}
	case 'e':
		b = bencode.AppendString(b, "e")
		b = bencode.AppendInt(append(b, 'l'), int64(m.code))
		b = append(bencode.AppendString(b, m.text), 'e')
		b = m.appendIP(b)
	default:
		b = m.appendBody(bencode.AppendString(m.appendIP(b), "r"))
	}
	b = appendField(b, "t", m.tid)
	b = appendField(b, "y", []byte{m.kind})
	return append(b, 'e')
}

func (m *message) appendIP(b []byte) []byte {
	if !m.ip.IsValid() {
		return b
	}
	return appendField(b, "ip", appendAddr(nil, m.ip))
}

func appendField(b []byte, key string, s []byte) []byte {
	return bencode.AppendBytes(bencode.AppendString(b, key), s)
}

func appendIntField(b []byte, key string, i int64) []byte {
	return bencode.AppendInt(bencode.AppendString(b, key), i)
}

// appendIf appends a byte string unless it is nil.
func appendIf(b []byte, key string, s []byte) []byte {
	if s == nil {
		return b
	}
	return appendField(b, key, s)
}

func (m *message) appendBody(b []byte) []byte {
	b = append(b, 'd')
	if m.hasCas {
		b = appendIntField(b, "cas", m.cas)
	}
	b = appendField(b, "id", m.id[:])
	if m.impliedPort {
		b = appendIntField(b, "implied_port", 1)
	}
	if m.hasInfoHash {
		b = appendField(b, "info_hash", m.infoHash[:])
	}
	b = appendIf(b, "k", m.key)
	b = appendIf(b, "nodes", m.nodes)
	b = appendIf(b, "nodes6", m.nodes6)
	if m.port != 0 {
		b = appendIntField(b, "port", int64(m.port))
	}
	b = appendIf(b, "salt", m.salt)
	if m.hasSeq {
		b = appendIntField(b, "seq", m.seq)
	}
	b = appendIf(b, "sig", m.sig)
	if m.hasTarget {
		b = appendField(b, "target", m.target[:])
	}
	b = appendIf(b, "token", m.token)
	if m.v != nil {
		b = append(bencode.AppendString(b, "v"), m.v...)
	}
	b = m.appendLists(b)
	return append(b, 'e')
}

func (m *message) appendLists(b []byte) []byte {
	if len(m.values) > 0 {
		b = append(bencode.AppendString(b, "values"), 'l')
		for _, a := range m.values {
			b = bencode.AppendBytes(b, appendAddr(nil, a))
		}
		b = append(b, 'e')
	}
	if !m.want4 && !m.want6 {
		return b
	}
	b = append(bencode.AppendString(b, "want"), 'l')
	if m.want4 {
		b = bencode.AppendString(b, "n4")
	}
	if m.want6 {
		b = bencode.AppendString(b, "n6")
	}
	return append(b, 'e')
}
