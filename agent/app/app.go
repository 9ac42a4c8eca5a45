package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/dig"
	"go.uber.org/fx"

	"porchlight/agent/config"
)

// startLimit is how long the start may take: hooks only open and schedule.
const startLimit = 10 * time.Second

// stopLimit is how long an orderly end may take.
const stopLimit = 3 * time.Second

// graph is the agent: what is made, and what is started in this order.
func graph(cfg config.Config, log *slog.Logger, h *held) fx.Option {
	return fx.Options(
		fx.Supply(cfg, log, h),
		fx.StopTimeout(stopLimit),
		fx.NopLogger,
		fx.Provide(
			openState,
			loadDevice,
			newClock,
			newNaming,
			openContacts,
			openOwners,
			openFellows,
			newHousehold,
			newIntroducers,
			openSocket,
			newMux,
			newArrivals,
			newOverlay,
			newIntroduceClient,
			newDialbackClient,
			newDialbackServer,
			newMapper,
			newKeeper,
			newSTUNServers,
			newBeacon,
			newNode,
			newTable,
			newErrands,
			newDirectory,
			newWhereabouts,
			newJoiner,
			newResolver,
			newLookers,
			newRequests,
			newPresence,
			newDevices,
			newOwnerHandler,
			newPost,
			newServices,
			newGateway,
			newIntroduceServer,
			newHost,
			openShares,
			newShareHandler,
			newWork,
			newReporter,
			newControl,
			newConsole,
		),
		fx.Invoke(
			closeHeld,
			startOverlay,
			startServices,
			startHost,
			startMapper,
			startForwards,
			startJoining,
			startNode,
			startDirectory,
			startBeacon,
			startPeople,
			startCircle,
			startScout,
			startStock,
			startWatch,
			startTrim,
			startControl,
			startGateway,
			startConsole,
		),
	)
}

// Run runs the agent until SIGTERM or an interrupt.
func Run(ctx context.Context, cfg config.Config) error {
	if err := cfg.Check(); err != nil {
		return err
	}
	level, err := cfg.Level()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	h := &held{}
	app := fx.New(graph(cfg, log, h))
	// A signal that comes meanwhile waits for the start: a graph that stands
	// can be taken down in order, half of one cannot.
	startCtx, cancelStart := context.WithTimeout(context.WithoutCancel(ctx), startLimit)
	defer cancelStart()
	if err := app.Start(startCtx); err != nil {
		return errors.Join(startError(err), h.close())
	}
	<-ctx.Done()
	stopCtx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	if err := app.Stop(stopCtx); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// startError keeps the cause and leaves out how the graph was put together.
func startError(err error) error {
	return fmt.Errorf("start: %w", dig.RootCause(err))
}
