package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"porchlight/agent/api"
	"porchlight/agent/identity"
)

const (
	// PingService is the service that echoes.
	PingService = "ping"
	// pingDefault is how long a ping may take if the command does not say.
	pingDefault = 30 * time.Second
	pingMost    = 10 * time.Minute
)

// ping reaches a peer, echoes, and follows the path until it is direct or
// known to stay relayed. It answers one JSON object a line, each complete.
func (s *Server) ping(w http.ResponseWriter, r *http.Request) {
	limit := pingDefault
	if text := r.URL.Query().Get("timeout"); text != "" {
		var err error
		if limit, err = time.ParseDuration(text); err != nil || limit <= 0 || limit > pingMost {
			reply(w, nil, Invalid(fmt.Errorf("timeout %q is no duration up to %v", text, pingMost)))
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	link, err := s.peer(r)
	if err != nil {
		reply(w, nil, err)
		return
	}
	began := time.Now()
	to, err := s.cfg.Best(ctx, link)
	if err != nil {
		reply(w, nil, unreached(err))
		return
	}
	rtt, err := s.echo(ctx, to)
	if err != nil {
		reply(w, nil, unreached(err))
		return
	}
	p := pinger{s: s, w: w, to: to, began: began, first: time.Since(began), rtt: rtt}
	p.follow(ctx, r.URL.Query().Get("until_direct") == "true")
}

type pinger struct {
	s     *Server
	w     http.ResponseWriter
	to    identity.Address
	began time.Time
	first time.Duration
	rtt   time.Duration
}

// follow reports every change of the path.
func (p pinger) follow(ctx context.Context, untilDirect bool) {
	last := api.Ping{}
	for {
		info := p.s.cfg.Paths.Info(p.to)
		result := api.Ping{
			Path:        info.Path,
			FirstByteMS: milliseconds(p.first),
			RTTMS:       milliseconds(p.rtt),
			Local:       info.Local,
			Remote:      info.Remote,
			Reason:      info.Reason,
		}
		if info.Path == "direct" {
			ms := milliseconds(time.Since(p.began))
			result.DirectMS = &ms
			if rtt, err := p.s.echo(ctx, p.to); err == nil {
				result.RTTMS = milliseconds(rtt)
			}
		}
		if result != last {
			p.tell(result)
			last = result
		}
		if !untilDirect || info.Path == "direct" || info.Hopeless {
			return
		}
		select {
		case <-info.Changed:
		case <-ctx.Done():
			return
		}
	}
}

func (p pinger) tell(result api.Ping) {
	json.NewEncoder(p.w).Encode(result)
	http.NewResponseController(p.w).Flush()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// echo sends one byte and waits for it.
func (s *Server) echo(ctx context.Context, to identity.Address) (time.Duration, error) {
	conn, err := s.cfg.Overlay.Dial(ctx, to, PingService)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	began := time.Now()
	if _, err := conn.Write([]byte{1}); err != nil {
		return 0, fmt.Errorf("ping %s: %w", to.Short(), err)
	}
	var b [1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return 0, fmt.Errorf("ping %s: %w", to.Short(), err)
	}
	return time.Since(began), nil
}
