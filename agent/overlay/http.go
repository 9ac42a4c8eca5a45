package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"porchlight/agent/identity"
)

// maxHeader is the size of the largest HTTP header that is read, in bytes.
const maxHeader = 16 << 10

type callerKey struct{}

// Caller returns the device that sent a request.
func Caller(r *http.Request) identity.Address {
	a, _ := r.Context().Value(callerKey{}).(identity.Address)
	return a
}

// WithCaller returns ctx with a caller, as requests of a service carry it.
func WithCaller(ctx context.Context, a identity.Address) context.Context {
	return context.WithValue(ctx, callerKey{}, a)
}

// Serve answers the HTTP requests to a service until the overlay closes.
func (o *Overlay) Serve(service string, handler http.Handler) error {
	l, err := o.Listen(service)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerLimit,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(o.cfg.Logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return o.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			a, _ := c.RemoteAddr().(Addr)
			return WithCaller(ctx, a.Address)
		},
	}
	o.running.Go(func() {
		if err := server.Serve(l); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
			o.cfg.Logger.Error("service ended", "service", service, "err", err)
		}
		server.Close()
	})
	return nil
}

// Client returns an HTTP client for one service of any device: the host of a
// URL is the device's address, as in http://ADDRESS/path.
func (o *Overlay) Client(service string) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, hostport string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(hostport)
				if err != nil {
					return nil, err
				}
				to, err := identity.ParseAddress(host)
				if err != nil {
					return nil, fmt.Errorf("dial %q: %w", host, err)
				}
				return o.Dial(ctx, to, service)
			},
			DisableCompression:     true,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        20 * time.Second,
			MaxResponseHeaderBytes: maxHeader,
		},
	}
}
