package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"

	"porchlight/agent/api"
	"porchlight/agent/forward"
)

// peerPort splits PEER:PORT at the last colon; a service may be a word too.
func peerPort(text string) (peer, service string, err error) {
	i := strings.LastIndex(text, ":")
	if i <= 0 || i == len(text)-1 {
		return "", "", usage("%q is not PEER:PORT, such as kitchen:22", text)
	}
	return text[:i], text[i+1:], nil
}

// forwardPort listens here and carries what comes to a service of a peer.
func forwardPort(c *call) error {
	udp := c.flags.Bool("udp", false, "carry datagrams instead of connections")
	if err := c.parse(1, 2); err != nil {
		return err
	}
	peer, service, err := peerPort(c.args[0])
	if err != nil {
		return err
	}
	q := url.Values{"peer": {peer}, "name": {service}, "network": {"tcp"}}
	if *udp {
		q.Set("network", "udp")
	}
	if len(c.args) == 2 {
		q.Set("local", c.args[1])
	}
	response, err := c.client.send(c.ctx, http.MethodPost, "forward?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer struct {
		Listening string `json:"listening"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	if err := c.print(answer, func(w io.Writer) {
		fmt.Fprintf(w, "%s leads to %s of %s; end with Ctrl-C\n", answer.Listening, service, peer)
	}); err != nil {
		return err
	}
	// The daemon listens for as long as this request is held.
	_, err = io.Copy(io.Discard, response.Body)
	if c.ctx.Err() != nil {
		return nil
	}
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errNotRunning
	}
	return fmt.Errorf("the forward has ended: %w", err)
}

// pipe connects standard input and output with a TCP service of a peer, as
// ssh's ProxyCommand wants it.
func pipe(c *call) error {
	if err := c.parse(1, 2); err != nil {
		return err
	}
	peer, service := c.args[0], ""
	var err error
	if len(c.args) == 2 {
		service = c.args[1]
	} else if peer, service, err = peerPort(peer); err != nil {
		return err
	}
	conn, err := c.client.dial(c.ctx, peer, forward.Service)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := forward.Ask(conn, "tcp", service); err != nil {
		return fmt.Errorf("%s: %w", peer, err)
	}
	go func() {
		io.Copy(conn, os.Stdin)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}()
	_, err = io.Copy(c.out, conn)
	return err
}

// CloseWrite tells the daemon that nothing more comes; reading goes on.
func (s *stream) CloseWrite() error {
	if half, ok := s.Conn.(*net.UnixConn); ok {
		return half.CloseWrite()
	}
	return nil
}

func listServices(c *call) error {
	if err := c.parse(0, 0); err != nil {
		return err
	}
	list := []api.Service{}
	if err := c.client.do(c.ctx, http.MethodGet, "services", nil, &list); err != nil {
		return err
	}
	return c.print(list, func(w io.Writer) {
		if len(list) == 0 {
			fmt.Fprintln(w, "nothing is exposed; let contacts connect to a port with: porchlight expose PORT --to WHO")
			return
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "SERVICE\tLEADS TO\tFOR")
		for _, s := range list {
			fmt.Fprintf(t, "%s/%s\t%s\t%s\n", s.Network, s.Name, s.Target, nobody(s.To))
		}
		t.Flush()
	})
}

// expose lets contacts connect to PORT here, or to NAME=HOST:PORT.
func expose(c *call) error {
	to := c.flags.String("to", "me", "WHO may connect: everybody, friends, me, or names, separated by commas")
	udp := c.flags.Bool("udp", false, "datagrams instead of connections")
	if err := c.parse(1, 1); err != nil {
		return err
	}
	name, target, named := strings.Cut(c.args[0], "=")
	if !named {
		target = name
	}
	in := api.Service{Name: name, Network: "tcp", Target: target, To: words(*to)}
	if len(in.To) == 0 {
		return usage("say who may connect: --to WHO; or end it with: porchlight unexpose %s", name)
	}
	if *udp {
		in.Network = "udp"
	}
	var s api.Service
	if err := c.client.do(c.ctx, http.MethodPost, "services", in, &s); err != nil {
		return err
	}
	return c.print(s, func(w io.Writer) {
		flag := map[string]string{"udp": " --udp"}[s.Network]
		fmt.Fprintf(w, "%s is exposed as %s %s for %s; they connect with: porchlight forward PEER:%[3]s%[5]s\n",
			s.Target, s.Network, s.Name, strings.Join(s.To, ","), flag)
	})
}

func unexpose(c *call) error {
	udp := c.flags.Bool("udp", false, "the one for datagrams")
	if err := c.parse(1, 1); err != nil {
		return err
	}
	network := "tcp"
	if *udp {
		network = "udp"
	}
	if err := c.client.do(c.ctx, http.MethodDelete, "services/"+network+"/"+url.PathEscape(c.args[0]), nil, nil); err != nil {
		return err
	}
	return c.print(map[string]string{"removed": c.args[0]}, func(w io.Writer) { fmt.Fprintf(w, "%s %s is no longer exposed\n", network, c.args[0]) })
}
