package savefmt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The reading half of the libxl stream; its layout is in libxl.go.

// libxlOrder is what has been seen of a libxl stream.
type libxlOrder struct {
	context, xenstore, emulator bool
}

// MaxEmulatorXenstore is the most bytes of an EMULATOR_XENSTORE_DATA record.
const MaxEmulatorXenstore = 1 << 20

// next takes the next record, or says why it may not stand here. kind is
// meaningless before the libxc stream.
func (o *libxlOrder) next(typ uint32, kind GuestKind) error {
	switch typ {
	case LibxlLibxcContext:
		if o.context {
			return errors.New("it is there twice")
		}
		o.context = true
		return nil
	case LibxlCheckpointEnd, LibxlCheckpointState:
		return errors.New("it belongs to a running Remus or COLO connection, not to a saved guest")
	case LibxlEnd, LibxlEmulatorXenstore, LibxlEmulatorContext:
	default:
		return errors.New("an unknown type of record: libxl allows none, not even optional ones")
	}
	switch {
	case !o.context:
		return errors.New("there is no LIBXC_CONTEXT record before it")
	case typ == LibxlEnd:
		return nil
	case kind != KindHVM:
		return fmt.Errorf("a %s guest has no emulator", kind)
	case o.emulator:
		return errors.New("it follows the emulator's context, and must come before, once")
	case typ == LibxlEmulatorXenstore && o.xenstore:
		return errors.New("it is there twice")
	}
	o.xenstore = true
	o.emulator = typ == LibxlEmulatorContext
	return nil
}

var libxlBodies = map[uint32]bodyRule{
	LibxlEnd:              {},
	LibxlLibxcContext:     {},
	LibxlEmulatorXenstore: {min: emulatorHeaderSize, max: MaxEmulatorXenstore, check: checkEmulatorXenstore},
	LibxlEmulatorContext:  {min: emulatorHeaderSize + 1, max: MaxDeviceModel + emulatorHeaderSize, check: checkEmulator},
}

func (r *Reader) libxlRecord() (Item, error) {
	item, err := r.recordHeader(LayerLibxl)
	if err != nil {
		return item, err
	}
	if err = r.libxl.next(item.Type, r.head.Kind); err == nil {
		err = r.body(&item, libxlBodies[item.Type])
	}
	if item.Type == LibxlEnd && err == nil {
		r.layer = ""
	}
	return item, r.fail(LayerLibxl, RecordName(LayerLibxl, item.Type), item.Offset, err)
}

// emulatorQEMUTrad is the device model of before 2011, gone with Xen 4.21.
const emulatorQEMUTrad uint32 = 1

func checkEmulator(b []byte) error {
	switch id, index := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]); {
	case id != emulatorQEMU && id != emulatorQEMUTrad:
		return fmt.Errorf("unknown emulator %d", id)
	case index != 0:
		return fmt.Errorf("emulator %d of this guest: it has one only", index)
	}
	return nil
}

// checkEmulatorXenstore checks that pairs of key and value follow, each with
// its NUL.
func checkEmulatorXenstore(b []byte) error {
	if err := checkEmulator(b); err != nil {
		return err
	}
	b = b[emulatorHeaderSize:]
	if len(b) > 0 && b[len(b)-1] != 0 || bytes.Count(b, []byte{0})%2 != 0 {
		return errors.New("its keys and values are not pairs of strings")
	}
	return nil
}

// DeviceModelState returns QEMU's own bytes of an EMULATOR_CONTEXT record. An
// error says that they are of another emulator.
func DeviceModelState(item Item) ([]byte, error) {
	if id := binary.LittleEndian.Uint32(item.Body); id != emulatorQEMU {
		return nil, fmt.Errorf("the guest's emulator is %d, qemu-traditional; only upstream QEMU is supported", id)
	}
	return item.Body[emulatorHeaderSize:], nil
}
