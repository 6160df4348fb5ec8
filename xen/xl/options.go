package xl

// Options of Open.
type Options struct {
	// LogLevel is the least level of libxl's own messages that goes to
	// standard error, as in xentoollog.h: 1 debug, 5 info, 7 warning, 8
	// error. 0 is none. Whatever it is, the text of an error of libxl is part
	// of the error that a method here returns.
	LogLevel int
}

// LeastThreads is how many threads a program that uses a Host lets run Go's code
// at once, however few processors dom0 has: one that comes back from a call into
// C, such as the wait for a guest's stop, must not stand in line for another's
// turn to end.
const LeastThreads = 4
