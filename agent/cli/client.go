package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"
	"time"

	"porchlight/agent/control"
	"porchlight/agent/identity"
)

// errNotRunning says that no daemon listens on the control socket.
var errNotRunning = errors.New("the agent is not running; start it with: porchlight run")

// maxAnswer is the size of the largest answer that is read, in bytes.
const maxAnswer = 8 << 20

// client talks to the daemon.
type client struct {
	socket string
	http   *http.Client
}

func newClient(state string) *client {
	c := &client{socket: filepath.Join(state, control.Socket)}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.connect(ctx) },
	}}
	return c
}

func (c *client) connect(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, errNotRunning
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: the agent belongs to another user; run this as that user", errNotAllowed)
	}
	return conn, err
}

var errNotAllowed = errors.New("not allowed")

// problem is an error the daemon told.
type problem struct{ control.Problem }

func (p *problem) Error() string { return p.Problem.Error }

func (p *problem) exitCode() int {
	switch p.Code {
	case "not_allowed":
		return exitNotAllowed
	case "timeout":
		return exitTimedOut
	case "invalid":
		return exitUsage
	}
	return exitFailed
}

// do makes one request and reads the answer into out, if that is not nil.
func (c *client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	response, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}

// send makes one request; a refusal becomes an error.
func (c *client) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://porchlight/api/v1/"+path, body)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, err
	}
	if response.StatusCode >= 400 {
		defer response.Body.Close()
		return nil, readProblem(response)
	}
	return response, nil
}

func readProblem(response *http.Response) error {
	var p problem
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&p.Problem); err != nil {
		return fmt.Errorf("the agent answered %s", response.Status)
	}
	return &p
}

// resolve turns a peer, as typed, into its address, and makes the daemon keep
// the hints of a link.
func (c *client) resolve(ctx context.Context, peer string) (identity.Address, error) {
	var answer struct {
		Address identity.Address `json:"address"`
	}
	err := c.do(ctx, http.MethodGet, "resolve?peer="+url.QueryEscape(peer), nil, &answer)
	return answer.Address, err
}

// dial opens a stream to a service of a peer through the daemon.
func (c *client) dial(ctx context.Context, peer, service string) (net.Conn, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request := fmt.Sprintf("GET /api/v1/dial?peer=%s&service=%s HTTP/1.1\r\nHost: porchlight\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n",
		url.QueryEscape(peer), url.QueryEscape(service), control.Upgrade)
	if _, err := io.WriteString(conn, request); err != nil {
		conn.Close()
		return nil, err
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("reach %s: %w", peer, err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		return nil, readProblem(response)
	}
	return &stream{Conn: conn, reader: reader}, nil
}

// stream is a connection of which some bytes may have been read already.
type stream struct {
	net.Conn
	reader *bufio.Reader
}

func (s *stream) Read(b []byte) (int, error) { return s.reader.Read(b) }

// peerClient returns an HTTP client for one service of any peer; the host of
// a URL is the peer's address.
func (c *client) peerClient(service string) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, hostport string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(hostport)
				if err != nil {
					return nil, err
				}
				return c.dial(ctx, host, service)
			},
			DisableCompression:  true,
			MaxIdleConnsPerHost: 8,
		},
	}
}
