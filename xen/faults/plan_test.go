package faults

// fault is something that goes wrong.
type fault string

// The faults. Those that strike a program strike it wherever the point is that
// the world has come to.
const (
	killSource      fault = "kill -9 of the sender"
	killDest        fault = "kill -9 of the receiver"
	killSourceGuard fault = "kill -9 of the sender's guardian"
	killDestGuard   fault = "kill -9 of the receiver's guardian"
	killAll         fault = "kill -9 of all programs"
	hangSource      fault = "the sender hangs"
	hangDest        fault = "the receiver hangs"
	cutLink         fault = "the link is cut"
	stallLink       fault = "the link stalls"
	noNetwork       fault = "the network is down for a while"
	noNetworkEver   fault = "the network is down for good"
	powerSource     fault = "the source loses its power"
	powerDest       fault = "the destination loses its power"
	diskFails       fault = "the disk of this host fails"
	callFails       fault = "this call fails"
	damage          fault = "this message is damaged"
)

var allFaults = []fault{
	killSource, killDest, killSourceGuard, killDestGuard, killAll, hangSource, hangDest, cutLink, stallLink,
	noNetwork, noNetworkEver, powerSource, powerDest, diskFails, callFails, damage,
}

// victim is the name of the program that a fault strikes.
func (f fault) victim() string {
	switch f {
	case killSource, hangSource:
		return "source"
	case killDest, hangDest:
		return "dest"
	case killSourceGuard:
		return "source-guard"
	}
	return "dest-guard"
}

// plan is the faults of one run: the first at a point of that name, the second
// a number of points after it.
type plan struct {
	label  string
	first  fault
	second fault // "" for none
	after  int   // points between the two, at least 1

	struck int // points passed since the first fault, 0 before
}

// at tells which fault is due at a point.
func (p *plan) at(label string) (fault, bool) {
	if p == nil {
		return "", false
	}
	if p.struck == 0 {
		if label != p.label {
			return "", false
		}
		p.struck = 1
		return p.first, true
	}
	p.struck++
	return p.second, p.second != "" && p.struck == p.after+1
}
