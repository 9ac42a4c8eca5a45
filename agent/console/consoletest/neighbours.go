package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"porchlight/agent/api"
)

const owner = "o2mz4tj2kaewx5hnvr3ob6dsy4pcgulf2ie5ywqa3hktn7vxob6mzrcd"

func ago(d time.Duration) int64 { return time.Now().Add(-d).UnixMilli() }

// own puts the device under an owner, whose key lies here or elsewhere.
func (s *scene) own(here bool) {
	s.st.Owner = owner
	s.devices = api.Devices{
		Owner: owner, HoldsKey: here,
		Link: "porchlight:" + owner + "?at=44.128.0.7:41641&via=m2hxq3zr5tynwkd4j7bofc6ue2lsgpia5vxh3oq7zrtn4wkyd6cbt5wa@44.128.0.2:4001",
		Devices: []api.Member{
			{Address: own, Name: "Attic Pi", Online: true, LastSeenUnixMS: ago(0), This: true},
			{Address: address('w'), Name: "Workshop Pi", Online: true, LastSeenUnixMS: ago(0)},
			{Address: address('k'), Name: "Cabin box", LastSeenUnixMS: ago(49 * time.Hour)},
		},
	}
}

// alone is a device that belongs to nobody.
func (s *scene) alone() {
	s.st.Owner = ""
	s.devices = api.Devices{Devices: []api.Member{{Address: own, Name: "Attic Pi", Online: true, This: true}}}
}

func someServices() []api.Service {
	return []api.Service{
		{Name: "22", Network: "tcp", Target: "127.0.0.1:22", To: []string{"me"}},
		{Name: "camera", Network: "tcp", Target: "192.168.1.60:8554", To: []string{"Alice"}},
	}
}

// talk is what was said before.
func (s *scene) talk() {
	s.said = map[string][]api.Message{}
	alice, err := s.contact("Alice")
	if err != nil {
		return
	}
	at := time.Now().Truncate(24 * time.Hour).Add(-3 * time.Hour)
	for i, line := range []struct {
		out   bool
		text  string
		state string
	}{
		{false, "The harvest film is wonderful. Is there more?", ""},
		{true, "Putting the second part into Films tonight.", "delivered"},
		{false, "Lovely. My router says hello too.", ""},
		{true, "Good night from the attic.", "stored"},
	} {
		s.say(alice, line.out, line.text, line.state, at.Add(time.Duration(i)*4*time.Minute))
	}
}

// obeyPeople obeys the commands about people.
func (s *scene) obeyPeople(words []string) error {
	rest := strings.TrimSpace(strings.Join(words[2:], " "))
	switch words[0] {
	case "ask":
		s.st.Requests = append(s.st.Requests, someRequest(words[1]))
	case "owner":
		s.owned(words[1])
	case "join":
		s.devices.Devices = append(s.devices.Devices, api.Member{Address: address('n'), Name: "Kitchen tablet", Online: true, LastSeenUnixMS: ago(0)})
	case "state": // of the last message to somebody
		return s.state(words[1], rest)
	case "write":
		c, err := s.contact(words[1])
		if err != nil {
			return err
		}
		c.Unread++
		s.say(c, false, rest, "", time.Now())
	case "presence":
		c, err := s.contact(words[1])
		if err != nil {
			return err
		}
		c.Online, c.Path, c.RTTMS, c.LastSeenUnixMS = rest == "on", "direct", 22, ago(0)
	case "arrive":
		_, err := s.put(api.Contact{Name: words[1], Address: address('z'), Role: "friend", Online: true, Path: "direct", RTTMS: 5})
		return err
	default:
		return fmt.Errorf("unknown command %q", words[0])
	}
	return nil
}

func someRequest(kind string) api.Request {
	q := api.Request{
		Address: "m2hxq3zr5tynwkd4j7bofc6ue2lsgpia5vxh3oq7zrtn4wkyd6cbt5wa", Name: "Lighthouse 7", Note: "We met at the harvest. I have the boat.",
		ReceivedUnixMS: ago(12 * time.Minute),
	}
	if kind == "hostile" {
		q.Address = address('e')
		q.Name = "\u202e<b>Alice</b>" + strings.Repeat("W", 80)
		q.Note = "<script>alert(1)</script>\u202e" + strings.Repeat("note ", 200)
	}
	q.Link = "porchlight:" + q.Address
	return q
}

func (s *scene) owned(kind string) {
	switch kind {
	case "none":
		s.alone()
	case "elsewhere":
		s.own(false)
	default:
		s.own(true)
	}
}

func (s *scene) state(name, state string) error {
	c, err := s.contact(name)
	if err != nil {
		return err
	}
	all := s.said[c.Address]
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Out {
			all[i].State = state
			return nil
		}
	}
	return errors.New("nothing was sent to " + name)
}

func somePeople() []api.Contact {
	one := func(c byte, name string, online bool, seen time.Duration) []api.Member {
		return []api.Member{{Address: address(c), Name: name, Online: online, LastSeenUnixMS: ago(seen)}}
	}
	return []api.Contact{
		{Name: "Alice", Address: address('a'), Role: "friend", Standing: "mutual", Online: true, Path: "direct", RTTMS: 18.2,
			Local: "srflx 44.128.0.7:41641", Remote: "srflx 44.130.0.9:52011",
			Devices:        append(one('1', "Attic PC", true, 0), one('2', "Alice’s phone", false, 20*time.Minute)...),
			LastSeenUnixMS: ago(0), SentBytes: 182e7, ReceivedBytes: 41e6},
		{Name: "Bob’s Pi", Address: address('b'), Role: "friend", Standing: "mutual", Online: true, Path: "relay", RTTMS: 91.7,
			Local: "relay 44.128.0.2:4001", Remote: "relay 44.128.0.2:50112", Reason: api.UDPBlockedThere,
			Devices: one('b', "", true, 0), LastSeenUnixMS: ago(0), SentBytes: 23e6, ReceivedBytes: 88e5},
		{Name: "Cabin box", Address: address('k'), Role: "me", LastSeenUnixMS: ago(49 * time.Hour),
			SentBytes: 4120, ReceivedBytes: 988},
		{Name: "Grandma’s router", Address: address('g'), Role: "friend", Standing: "mutual", Online: true, Path: "direct", RTTMS: 41,
			Local: "host 192.168.1.23:41641", Remote: "host 44.128.0.2:4001",
			Devices: one('g', "", true, 0), LastSeenUnixMS: ago(0), SentBytes: 14e8, ReceivedBytes: 11e8},
		{Name: "Ida", Address: address('i'), Role: "friend", Standing: "mutual", Online: true, Reason: api.Trying, LastSeenUnixMS: ago(0)},
		{Name: "Tree house", Address: address('t'), Standing: "asked"},
		{Name: "Workshop Pi", Address: address('w'), Role: "me", Online: true, Path: "direct", RTTMS: 0.8,
			Local: "host 192.168.1.23:41641", Remote: "host 192.168.1.40:41641",
			LastSeenUnixMS: ago(0), SentBytes: 61e9, ReceivedBytes: 2e9},
	}
}
