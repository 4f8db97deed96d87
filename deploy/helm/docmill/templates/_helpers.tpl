{{- define "docmill.fullname" -}}
{{- if contains "docmill" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-docmill" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels by which a component's pods are found. Takes root and component. */}}
{{- define "docmill.selector" -}}
app.kubernetes.io/name: docmill
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "docmill.labels" -}}
{{ include "docmill.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The image of a container. Takes root and, for workers, tag, or suffix of the tag of all pods. */}}
{{- define "docmill.image" -}}
{{- $tag := printf "%s%s" (.root.Values.image.tag | default .root.Chart.AppVersion) (.suffix | default "") -}}
image: "{{ .root.Values.image.repository }}:{{ .tag | default $tag }}"
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}

{{/*
What every pod has. No token of the API; no variables of services, since Kubernetes would name one of them
DOCMILL_METRICS_PORT, which docmill takes for its own setting.
*/}}
{{- define "docmill.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "docmill.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* A variable from a Secret. Takes name (of the variable), secret and key. */}}
{{- define "docmill.fromSecret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}

{{- define "docmill.secret" -}}
{{ .Values.connection.existingSecret | default (include "docmill.fullname" .) }}
{{- end }}

{{/* The Secret with the URL for a role: owner, admin or scaler. Takes root and role. */}}
{{- define "docmill.secretOf" -}}
{{- $given := get .root.Values.connection .role }}
{{- if $given.existingSecret }}{{ $given.existingSecret }}
{{- else if eq (include "docmill.makesSecret" .) "true" }}{{ include "docmill.fullname" .root }}-{{ .role }}
{{- else }}{{ include "docmill.secret" .root }}{{ end }}
{{- end }}

{{/*
True if the chart makes a Secret for a role: for a URL of its own, and for the owner also where the workers' URL is
given, since the migration runs before the workers' Secret is there. Takes root and role.
*/}}
{{- define "docmill.makesSecret" -}}
{{- $given := get .root.Values.connection .role }}
{{- and (not $given.existingSecret) (or (ne $given.databaseUrl "") (and (eq .role "owner") (not .root.Values.connection.existingSecret))) }}
{{- end }}

{{/*
The settings of a container as its environment. Takes root, secret, queue (with the queue's URL), secrets (further ones)
and own settings, which go before those of all pods.
*/}}
{{- define "docmill.environment" -}}
env:
  {{- include "docmill.fromSecret" (dict "name" "DOCMILL_DATABASE_URL" "secret" .secret "key" "database-url") | nindent 2 }}
  {{- if .queue }}
  {{- include "docmill.fromSecret" (dict "name" "DOCMILL_REDIS_URL" "secret" (include "docmill.secret" .root) "key" "redis-url") | nindent 2 }}
  {{- end }}
  {{- range .secrets }}
  {{- include "docmill.fromSecret" . | nindent 2 }}
  {{- end }}
  {{- range $name, $value := mergeOverwrite (deepCopy .root.Values.settings) (.own | default dict) }}
  - name: {{ $name }}
    value: {{ toString $value | quote }}
  {{- end }}
{{- with .root.Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "docmill.mounts" -}}
volumeMounts:
  - {name: home, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
  {{- if or .root.Values.models.existingClaim .root.Values.models.hostPath }}
  - {name: models, mountPath: /models, readOnly: true}
  {{- end }}
  {{- if .sharedMemory }}
  - {name: shm, mountPath: /dev/shm}
  {{- end }}
  {{- with .root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The volumes of a pod. Takes root and, for workers, claim, sizeLimit and sharedMemory. */}}
{{- define "docmill.volumes" -}}
volumes:
  - name: home
    {{- if .claim }}
    persistentVolumeClaim:
      claimName: {{ .claim }}
    {{- else }}
    emptyDir:
      sizeLimit: {{ .sizeLimit | default "1Gi" }}
    {{- end }}
  - name: tmp
    emptyDir:
      sizeLimit: 1Gi
  {{- if .root.Values.models.existingClaim }}
  - name: models
    persistentVolumeClaim:
      claimName: {{ .root.Values.models.existingClaim }}
      readOnly: true
  {{- else if .root.Values.models.hostPath }}
  - name: models
    hostPath:
      path: {{ .root.Values.models.hostPath }}
      type: Directory
  {{- end }}
  {{- if .sharedMemory }}
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: {{ .sharedMemory }}
  {{- end }}
  {{- with .root.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/*
Probes of a worker. It is ready once its device processes take work. A liveness probe ignores a database that does not
answer (exit code 3): a restart would only lose what the worker holds until the database is back.
*/}}
{{- define "docmill.probes" -}}
startupProbe:
  exec:
    command: [docmill, doctor, --workers]
  periodSeconds: 5
  timeoutSeconds: 15
  failureThreshold: 60
readinessProbe:
  exec:
    command: [docmill, doctor, --workers]
  periodSeconds: 30
  timeoutSeconds: 15
  failureThreshold: 3
livenessProbe:
  exec:
    command: [sh, -c, 'docmill doctor --workers --within 300; test $? -ne 1']
  periodSeconds: 60
  timeoutSeconds: 30
  failureThreshold: 3
{{- end }}
