package hostile

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// mapping is what AddPortMapping asked for.
type mapping struct {
	client, port string
	lease        uint32
}

// Answer is an answer to a search.
func Answer(location string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"+
		"USN: uuid:1::urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nEXT:\r\nLOCATION: %s\r\n\r\n", location)
}

// Description is a description with one WANIPConnection:1.
func Description(name, controlURL string) string {
	return `<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>` +
		`<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><friendlyName>` + name + `</friendlyName>` +
		`<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType>` +
		`<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>` +
		`<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>` + controlURL + `</controlURL>` +
		`</service></serviceList></device></deviceList></device></deviceList></device></root>`
}

func (g *Gateway) describe(w http.ResponseWriter, r *http.Request) {
	if g.Describe != nil {
		g.Describe(w, r)
		return
	}
	control := g.ControlURL
	if control == "" {
		control = "/ctl"
	}
	io.WriteString(w, Description("Hostile", control))
}

// argument finds one argument of a SOAP request.
func argument(body, name string) string {
	m := regexp.MustCompile(`<` + name + `>([^<]*)</` + name + `>`).FindStringSubmatch(body)
	if m == nil {
		return ""
	}
	return m[1]
}

func (g *Gateway) control(w http.ResponseWriter, r *http.Request) {
	if g.Control != nil {
		g.Control(w, r)
		return
	}
	b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	body := string(b)
	_, action, _ := strings.Cut(strings.Trim(r.Header.Get("SOAPACTION"), `"`), "#")
	port, _ := strconv.ParseUint(argument(body, "NewExternalPort"), 10, 16)
	lease, _ := strconv.ParseUint(argument(body, "NewLeaseDuration"), 10, 32)
	if action == "AddPortMapping" {
		g.Adds.Add(1)
	}
	if g.Fault != nil {
		if code := g.Fault(action, uint16(port), uint32(lease)); code != 0 {
			fault(w, code)
			return
		}
	}
	g.act(w, action, body, uint32(lease))
}

// act does what an honest router's page would show.
func (g *Gateway) act(w http.ResponseWriter, action, body string, lease uint32) {
	key := argument(body, "NewProtocol") + argument(body, "NewExternalPort")
	g.mu.Lock()
	defer g.mu.Unlock()
	switch action {
	case "GetExternalIPAddress":
		reply(w, action, "<NewExternalIPAddress>"+g.External+"</NewExternalIPAddress>")
	case "AddPortMapping":
		g.mappings[key] = mapping{argument(body, "NewInternalClient"), argument(body, "NewInternalPort"), lease}
		reply(w, action, "")
	case "GetSpecificPortMappingEntry":
		m, ok := g.mappings[key]
		if !ok {
			fault(w, 714)
			return
		}
		if g.Lease != nil {
			m.lease = *g.Lease
		}
		reply(w, action, fmt.Sprintf("<NewInternalPort>%s</NewInternalPort><NewInternalClient>%s</NewInternalClient><NewEnabled>1</NewEnabled>"+
			"<NewPortMappingDescription></NewPortMappingDescription><NewLeaseDuration>%d</NewLeaseDuration>", m.port, m.client, m.lease))
	case "DeletePortMapping":
		delete(g.mappings, key)
		reply(w, action, "")
	default:
		fault(w, 401)
	}
}

// Mapped is how many mappings it pretends to have.
func (g *Gateway) Mapped() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.mappings)
}

func envelope(body string) string {
	return `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>` +
		body + `</s:Body></s:Envelope>`
}

func reply(w http.ResponseWriter, action, arguments string) {
	io.WriteString(w, envelope(`<u:`+action+`Response xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">`+arguments+`</u:`+action+`Response>`))
}

func fault(w http.ResponseWriter, code int) {
	w.WriteHeader(http.StatusInternalServerError)
	io.WriteString(w, envelope(fmt.Sprintf(`<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>`+
		`<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>%d</errorCode><errorDescription>no</errorDescription></UPnPError></detail></s:Fault>`, code)))
}

// Endless writes an element that never ends.
func Endless(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, `<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><friendlyName>`)
	chunk := strings.Repeat("A", 1<<16)
	for r.Context().Err() == nil {
		if _, err := io.WriteString(w, chunk); err != nil {
			return
		}
	}
}

// Nested opens n elements in each other.
func Nested(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">`)
		for range n {
			if _, err := io.WriteString(w, "<a>"); err != nil {
				return
			}
		}
	}
}
