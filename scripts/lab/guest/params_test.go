package main

import (
	"strings"
	"testing"
	"time"
)

func TestParams(t *testing.T) {
	p, err := parseParams("console=hvc0 quiet xfg.mem=96 xfg.workload=hot:5MB/s,set=8MiB xfg.verify=1MiB xfg.image=5 xfg.image_at=6 " +
		"xfg.disk=/dev/xvdb xfg.disk_at=100 xfg.disk_ms=7 xfg.net=10.1.2.3/22 xfg.net_ms=9 xfg.beat_ms=50 xfg.harm=mem:3,net:4\n")
	if err != nil {
		t.Fatal(err)
	}
	if p.mem != 96<<20 || p.workload != "hot:5MB/s,set=8MiB" || p.verify != 1<<20 || p.image != 5<<20 || p.imageAt != 6<<20 ||
		p.disk != "/dev/xvdb" || p.diskAt != 100<<20 || p.diskEvery != 7*time.Millisecond ||
		p.address.String() != "10.1.2.3/22" || p.to.String() != "10.1.3.255:7707" || p.netEvery != 9*time.Millisecond ||
		p.beat != 50*time.Millisecond || p.harm["mem"] != 3*time.Second || p.harm["net"] != 4*time.Second {
		t.Errorf("got %+v", p)
	}
}

func TestParamsDefault(t *testing.T) {
	p, err := parseParams("console=hvc0")
	if err != nil || p.mem == 0 || p.disk == "" || p.to.String() != "192.168.77.255:7707" || len(p.harm) != 0 {
		t.Errorf("got %+v, %v", p, err)
	}
	p, err = parseParams("xfg.disk=none xfg.net=none xfg.mem=0")
	if err != nil || p.mem != 0 || p.disk != "" || p.address.IsValid() || p.to.IsValid() {
		t.Errorf("none of all: got %+v, %v", p, err)
	}
}

func TestParamsRefused(t *testing.T) {
	for _, word := range []string{
		"xfg.mem=x", "xfg.image=all", "xfg.image_at=-1", "xfg.mem=-1", "xfg.mem=99999999", "xfg.verify=5", "xfg.disk_ms=0", "xfg.disk_at=1G",
		"xfg.net=192.168.77.1", "xfg.net=fe80::1/64", "xfg.to=nobody", "xfg.beat_ms=", "xfg.harm=disc:1", "xfg.harm=mem",
		"xfg.unknown=1", "xfg.",
	} {
		if p, err := parseParams("quiet " + word); err == nil {
			t.Errorf("%s: taken as %+v", word, p)
		} else if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: the error does not name it: %v", word, err)
		}
	}
}
