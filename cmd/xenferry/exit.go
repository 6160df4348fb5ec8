package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/xen"
)

// The exit codes of xenferry: scripts decide by them. docs/operations.md
// explains what to do for each.
const (
	exitOK        = 0
	exitFailed    = 1
	exitUsage     = 2
	exitNoDomain  = 3
	exitNoPeer    = 4
	exitRefused   = 5
	exitAtSource  = 6
	exitInDoubt   = 7
	exitSuspended = 8
	exitLeftover  = 9
	exitDamaged   = 10
	exitCancelled = 130
)

const exitCodesHelp = `Exit codes:
   0    done
   1    failed, for a reason that none of the others names
   2    the command line is wrong
   3    no such domain; status and tune: no migration of it is under way
   4    the other host cannot be reached, has no xenferry, or one of another protocol version
   5    the other host refused before anything was sent: name in use, not enough memory, unsupported guest or whatever it says
   6    the migration or the save failed; the guest is at the source as before: it runs on, or is still paused
   7    in doubt: the guest was handed over, and no answer came; it is kept suspended at the source
   8    the migration or the save failed, and the guest at the source could not be resumed
   9    the guest has moved, but its suspended copy at the source could not be destroyed;
        or it is saved, and the suspended guest could not be destroyed or resumed
   10   the saved guest is damaged, incomplete, or no saved guest at all
   130  cancelled; the guest runs on at the source`

// usageErr is a mistake on the command line.
type usageErr struct{ text string }

func (e usageErr) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageErr{fmt.Sprintf(format, args...)} }

func usageError(c *cli.Context, err error, _ bool) error {
	return usagef("%v (see %s --help)", err, c.Command.HelpName)
}

// exitCode maps an error to the exit code: the one place where that is done.
func exitCode(err error) int {
	var usage usageErr
	var failure *xen.MigrateError
	var left unfinished
	var unsaved *xen.SaveError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &failure):
		return migrateExitCode(failure)
	case errors.Is(err, errInDoubt): // whatever else is left
		return exitInDoubt
	case errors.As(err, &left):
		return exitFailed
	case errors.As(err, &unsaved):
		return saveExitCode(unsaved)
	case xen.IsDamage(err):
		return exitDamaged
	case errors.Is(err, context.Canceled):
		return exitCancelled
	case errors.Is(err, xen.ErrNoDomain), errors.Is(err, errNoMigration):
		return exitNoDomain
	case isRefusal(err):
		return exitRefused
	}
	return exitFailed
}

func migrateExitCode(e *xen.MigrateError) int {
	switch e.Outcome {
	case xen.OutcomeInDoubt:
		return exitInDoubt
	case xen.OutcomeSuspended:
		return exitSuspended
	case xen.OutcomeLeftover:
		return exitLeftover
	case xen.OutcomeEnded:
		return exitNoDomain
	}
	var said *xen.PeerError
	switch {
	case errors.Is(e, context.Canceled):
		return exitCancelled
	case errors.Is(e, xen.ErrVersion):
		return exitNoPeer
	case e.Phase != xen.PhaseHello:
		return exitAtSource
	case errors.Is(e, xen.ErrPeerLost), errors.Is(e, xen.ErrPeerSilent), errors.Is(e, xen.ErrNotPeer), errors.Is(e, xen.ErrNoHost):
		return exitNoPeer
	case errors.As(e, &said):
		return exitRefused
	}
	return exitAtSource
}

func saveExitCode(e *xen.SaveError) int {
	switch {
	case e.Written && e.Outcome == xen.OutcomeSuspended:
		return exitLeftover
	case e.Outcome == xen.OutcomeInDoubt:
		return exitInDoubt
	case e.Outcome == xen.OutcomeSuspended:
		return exitSuspended
	case e.Outcome == xen.OutcomeEnded:
		return exitNoDomain
	case errors.Is(e, context.Canceled):
		return exitCancelled
	case e.Phase == xen.PhaseHello && (errors.Is(e, xen.ErrPeerLost) || errors.Is(e, xen.ErrPeerSilent) || errors.Is(e, xen.ErrNotPeer)):
		return exitNoPeer
	}
	return exitAtSource
}

// told is the failure of a receiver of which the source knows: it is not
// printed twice on the same terminal.
type told struct{ error }

func (told) Error() string   { return "" }
func (t told) Unwrap() error { return t.error }

func isRefusal(err error) bool {
	return errors.Is(err, xen.ErrNameTaken) || errors.Is(err, xen.ErrNoMemory) || errors.Is(err, xen.ErrUnsupported)
}
