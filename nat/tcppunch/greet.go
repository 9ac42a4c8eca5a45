package tcppunch

import (
	"errors"
	"net"
	"time"

	"porchlight/nat/probe"
	"porchlight/nat/stun"
)

// greetTime is how long a connection may take until the other end has asked
// rightly. A stranger is cut off then, or at its first wrong frame.
const greetTime = 2 * time.Second

var (
	// errStranger says that a connection is not the peer's.
	errStranger = errors.New("not the peer of this session")
	// errNotChosen says that another connection was nominated.
	errNotChosen = errors.New("another connection was chosen")
)

// greeter proves over a connection who both ends are, and makes them agree on
// one connection if there are several.
type greeter struct {
	ours, them probe.Credentials
	asking     bool
	// proved is called once the other end has asked rightly; an error ends it.
	proved func() error
	// choose takes the one nomination there is, and returns how to give it back.
	choose func() (giveBack func(), ok bool)
}

// greet returns nil when conn is the one both ends use. Who has connected asks
// at once; who was connected to is silent until it was asked rightly. Each end
// sends one question and one answer, and reads not a byte more. The asking
// end's answer comes last and on one connection only: it is the nomination. The
// caller bounds the time by a deadline.
func (g greeter) greet(conn net.Conn, connected bool) error {
	question, id, err := probe.Ask(g.them, g.ours.Ufrag)
	if err != nil {
		return err
	}
	if connected {
		if err := writeFrames(conn, question); err != nil {
			return err
		}
	}
	var answer []byte // ours, to their question
	answered := false // our question is
	for answer == nil || !answered {
		b, err := readFrame(conn)
		if err != nil {
			return err
		}
		if stun.Check(b) != nil {
			return errStranger
		}
		if answer == nil {
			if answer, err = g.answerTo(b); err == nil {
				if err := g.proved(); err != nil {
					return err
				}
				if err := g.reply(conn, question, answer, connected); err != nil {
					return err
				}
				continue
			}
		}
		if got, err := probe.Answered(b, g.them); answered || err != nil || got != id {
			return errStranger
		}
		answered = true
	}
	if g.asking {
		return g.nominate(conn, answer)
	}
	return nil
}

// answerTo makes the answer to the peer's question; nil and an error if b is
// none.
func (g greeter) answerTo(b []byte) ([]byte, error) {
	ufrag, err := probe.Asked(b)
	if err != nil {
		return nil, err
	}
	if ufrag != g.ours.Ufrag {
		return nil, errStranger
	}
	return probe.Answer(b, g.ours)
}

// reply says what is due once the peer has asked.
func (g greeter) reply(conn net.Conn, question, answer []byte, connected bool) error {
	var frames [][]byte
	if !connected {
		frames = append(frames, question)
	}
	if !g.asking {
		frames = append(frames, answer)
	}
	if len(frames) == 0 {
		return nil
	}
	return writeFrames(conn, frames...)
}

func (g greeter) nominate(conn net.Conn, answer []byte) error {
	giveBack, ok := g.choose()
	if !ok {
		return errNotChosen
	}
	if err := writeFrames(conn, answer); err != nil {
		giveBack() // the peer has reset it, so it does not use it either
		return err
	}
	return nil
}
