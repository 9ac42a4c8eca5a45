package relay

import (
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// pionLog hands pion's warnings and errors to slog at debug level: strangers
// cause all of them at will, and Stats counts what matters.
type pionLog struct{ log *slog.Logger }

var (
	_ logging.LoggerFactory = pionLog{}
	_ logging.LeveledLogger = pionLog{}
)

func (p pionLog) NewLogger(string) logging.LeveledLogger { return p }

func (pionLog) Trace(string)          {}
func (pionLog) Tracef(string, ...any) {}
func (pionLog) Debug(string)          {}
func (pionLog) Debugf(string, ...any) {}
func (pionLog) Info(string)           {}
func (pionLog) Infof(string, ...any)  {}

func (p pionLog) Warn(msg string)  { p.log.Debug("turn library", "detail", msg) }
func (p pionLog) Error(msg string) { p.log.Debug("turn library", "detail", msg) }

func (p pionLog) Warnf(format string, args ...any)  { p.detail(format, args) }
func (p pionLog) Errorf(format string, args ...any) { p.detail(format, args) }

func (p pionLog) detail(format string, args []any) {
	p.log.Debug("turn library", "detail", lazyText{format, args})
}

// lazyText formats only if the record is written.
type lazyText struct {
	format string
	args   []any
}

func (t lazyText) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf(t.format, t.args...)) }
