package probe_test

import (
	"bytes"
	"errors"
	"testing"

	"porchlight/nat/probe"
	"porchlight/nat/stun"
)

var (
	us   = probe.Credentials{Ufrag: "ours", Pwd: "a password of twenty-two"}
	them = probe.Credentials{Ufrag: "theirs", Pwd: "another password entirely"}
)

func TestQuestionAndAnswer(t *testing.T) {
	question, id, err := probe.Ask(us, "theirs")
	if err != nil {
		t.Fatal(err)
	}
	if err := stun.Check(question); err != nil {
		t.Fatalf("the gate refuses a question: %v", err)
	}
	if ufrag, err := probe.Asked(question); err != nil || ufrag != us.Ufrag {
		t.Errorf("Asked = %q, %v", ufrag, err)
	}
	answer, err := probe.Answer(question, us)
	if err != nil {
		t.Fatal(err)
	}
	if err := stun.Check(answer); err != nil {
		t.Fatalf("the gate refuses an answer: %v", err)
	}
	if got, err := probe.Answered(answer, us); err != nil || got != id {
		t.Errorf("Answered = %x, %v", got, err)
	}
	if len(answer) > len(question) {
		t.Errorf("an answer of %d bytes to a question of %d amplifies", len(answer), len(question))
	}
}

func TestForgeriesAreRefused(t *testing.T) {
	question, _, _ := probe.Ask(us, "theirs")
	answer, _ := probe.Answer(question, us)
	if _, err := probe.Answer(question, them); !errors.Is(err, probe.ErrProbe) {
		t.Errorf("question with a foreign key: %v", err)
	}
	if _, err := probe.Answered(answer, them); !errors.Is(err, probe.ErrProbe) {
		t.Errorf("answer with a foreign key: %v", err)
	}
	if _, err := probe.Answered(question, us); !errors.Is(err, probe.ErrProbe) {
		t.Errorf("a question as answer: %v", err)
	}
	if _, err := probe.Answer(answer, us); !errors.Is(err, probe.ErrProbe) {
		t.Errorf("an answer as question: %v", err)
	}
	for i := range question {
		b := bytes.Clone(question)
		b[i] ^= 1
		if stun.Check(b) != nil {
			continue
		}
		if _, err := probe.Answer(b, us); err == nil {
			t.Errorf("question with byte %d changed is answered", i)
		}
	}
}

func FuzzProbe(f *testing.F) {
	question, _, _ := probe.Ask(us, "theirs")
	answer, _ := probe.Answer(question, us)
	f.Add(question)
	f.Add(answer)
	f.Fuzz(func(t *testing.T, b []byte) {
		if stun.Check(b) != nil {
			return
		}
		probe.Asked(b)
		probe.Answer(b, them)
		probe.Answered(b, them)
	})
}
